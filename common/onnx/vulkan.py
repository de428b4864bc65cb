"""Lists the devices of this machine's Vulkan drivers through `ctypes`, so that no tool has to be installed."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

KINDS = ("other", "integrated", "discrete", "virtual", "software")
"""VkPhysicalDeviceType; Vulkan calls the last one CPU."""

_LIBRARY = "vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1"

_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1
_PROPERTIES_2, _DRIVER_PROPERTIES = 1_000_059_001, 1_000_196_000
_VERSION_1_2 = 1 << 22 | 2 << 12
_SUCCESS = 0


@dataclass(frozen=True)
class Device:
    """A physical device."""

    name: str
    driver: str
    """The driver's name and version, as it tells them."""
    kind: str
    """One of `KINDS`."""


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("application", ctypes.c_char_p),
        ("application_version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application_info", ctypes.POINTER(_ApplicationInfo)),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _DriverProperties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("identifier", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance_version", ctypes.c_uint8 * 4),
    )


class _Properties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint64 * 128),  # limits and more, about half of this
    )


def devices() -> list[Device] | None:
    """The devices of the drivers, in their order; None if there is no Vulkan loader.

    The drivers are loaded into this process, and some write to standard error.
    """
    try:
        vulkan = ctypes.CDLL(_LIBRARY)
        get_properties = vulkan.vkGetPhysicalDeviceProperties2
    except (OSError, AttributeError):  # none, or one from before Vulkan 1.1
        return None
    application = _ApplicationInfo(type=_APPLICATION_INFO, application=b"triptych", api_version=_VERSION_1_2)
    information = _InstanceCreateInfo(type=_INSTANCE_CREATE_INFO, application_info=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(ctypes.byref(information), None, ctypes.byref(instance)) != _SUCCESS:
        return []  # such as where there is a loader, but no driver
    try:
        count = ctypes.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        handles = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        found = []
        for handle in handles[: count.value]:
            driver = _DriverProperties(type=_DRIVER_PROPERTIES)
            properties = _Properties(type=_PROPERTIES_2, next=ctypes.addressof(driver))
            get_properties(ctypes.c_void_p(handle), ctypes.byref(properties))
            found.append(
                Device(
                    properties.name.decode(errors="replace"),
                    " ".join(filter(None, (text.decode(errors="replace") for text in (driver.name, driver.info)))),
                    KINDS[properties.kind] if properties.kind < len(KINDS) else "other",
                )
            )
        return found
    finally:
        vulkan.vkDestroyInstance(instance, None)
