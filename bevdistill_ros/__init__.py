"""Train with LiDAR, drive with cameras: 3-D boxes from synchronised cameras in ROS 2."""

from pkgutil import extend_path

# The generated message module `bevdistill_ros.msg` lies in the install tree: with this line it is found even when the source
# folder of the package comes first on the path.
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
