"""``python -m bevdistill_ros VERB``."""

import sys

from bevdistill_ros.cli import main

sys.exit(main())
