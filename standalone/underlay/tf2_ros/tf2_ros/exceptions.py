"""Why a transform could not be given."""


class TransformException(Exception):
    """Base of all of them."""


class ConnectivityException(TransformException):
    """Both frames are known, but belong to different trees."""


class LookupException(TransformException):
    """A frame is not known at all, or the tree has a loop."""


class ExtrapolationException(TransformException):
    """The time asked for is outside of what the buffer holds."""


class InvalidArgumentException(TransformException):
    """A frame name that no frame can have."""


class TimeoutException(TransformException):
    """The answer did not come in time."""
