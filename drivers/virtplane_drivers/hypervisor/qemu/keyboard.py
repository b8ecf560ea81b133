"""Keys by their names in Linux, as QEMU calls them (QKeyCode, QAPI ui.json)."""

from collections.abc import Mapping

from virtplane_api.keys import KeyName

_NAMED = {
    "LEFTCTRL": "ctrl",
    "RIGHTCTRL": "ctrl_r",
    "LEFTSHIFT": "shift",
    "RIGHTSHIFT": "shift_r",
    "LEFTALT": "alt",
    "RIGHTALT": "alt_r",
    "LEFTMETA": "meta_l",
    "RIGHTMETA": "meta_r",
    "ENTER": "ret",
    "SPACE": "spc",
    "PAGEUP": "pgup",
    "PAGEDOWN": "pgdn",
    "CAPSLOCK": "caps_lock",
    "NUMLOCK": "num_lock",
    "SCROLLLOCK": "scroll_lock",
    "LEFTBRACE": "bracket_left",
    "RIGHTBRACE": "bracket_right",
    "GRAVE": "grave_accent",
    "102ND": "less",
    "KPPLUS": "kp_add",
    "KPMINUS": "kp_subtract",
    "KPASTERISK": "kp_multiply",
    "KPSLASH": "kp_divide",
    "KPENTER": "kp_enter",
    "KPDOT": "kp_decimal",
    **{f"KP{digit}": f"kp_{digit}" for digit in range(10)},
}
"""Where the two differ by more than case."""


def _code(key: KeyName) -> str:
    name = key.removeprefix("KEY_")
    return _NAMED.get(name, name.lower())


KEY_CODES: Mapping[KeyName, str] = {key: _code(key) for key in KeyName}
