"""Exit status 0 if MuJoCo will be able to draw without a screen here, through EGL or OSMesa. Needs nothing but Python."""

import ctypes
import sys

EGL_PLATFORM_DEVICE = 0x313F


def egl_works() -> bool:
    """Whether one of EGL's devices, GPU or software, can be initialised. A library without its driver cannot."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    addresses = [egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT")]
    if not all(addresses):
        return False
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(addresses[0])
    get_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(addresses[1])
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    devices, count = (ctypes.c_void_p * 32)(), ctypes.c_int()
    if not query_devices(len(devices), devices, ctypes.byref(count)):
        return False
    displays = [get_display(EGL_PLATFORM_DEVICE, device, None) for device in devices[: count.value]]
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def osmesa_works() -> bool:
    """Whether the library is there; it has its driver built in."""
    for name in ("libOSMesa.so.8", "libOSMesa.so.6"):
        try:
            ctypes.CDLL(name)
            return True
        except OSError:
            pass
    return False


if __name__ == "__main__":
    sys.exit(not (egl_works() or osmesa_works()))
