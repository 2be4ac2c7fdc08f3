"""The verb ``demo``: a drive that no network was trained on, played to the detector over DDS, and what came of it."""
