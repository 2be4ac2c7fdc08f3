"""The verb ``bench``: how long each stage takes from a camera's picture to boxes, and how much of that this machine could save."""
