"""Guests of 512 bytes, for tests that need many machines, or a certain death, and no operating system.

The one program in the boot sector greets on the first serial port (0x3F8, 115200 baud or whatever the firmware left),
then prints `tick 1`, `tick 2` ... a second apart (18 ticks of the BIOS timer, 0.99 s). It halts between timer
interrupts, so a host carries dozens of them on one core. What else it does is chosen by three values behind the code.

`GREETING` on the console means that firmware, disk and serial port work. A disk without a partition table passes for
no known format with strict image inspectors, so the table has one entry, and its data is the rest of the disk.

Registers of the ACPI power management block lie where SeaBIOS puts them on q35 and pc: base 0x600; status at +0, where
bit 8 is the power button, enable at +2, control at +4, where 0x2000 is "sleep now", type 0, which QEMU declares as S5.
"""

import struct
from enum import StrEnum
from pathlib import Path

GREETING = "virtplane boot sector guest: up"
POWER_BUTTON_PRESSED = "power button: powering off"

SECTOR_BYTES = 512
IMAGE_BYTES = 1024 * 1024
"""What `boot_sector_image` writes; virtio-blk and image tools accept smaller disks, users' tools less so."""

# AT&T syntax, 16 bit, loaded at 0000:7C00. To change it: write the right column to a file with `.code16` and labels,
# then `as --32`, `ld -m elf_i386 -Ttext 0x7c00 --oformat binary`, and list it with `objdump -D -b binary -m i8086`.
CODE = bytes.fromhex(
    "ea057c0000"  #      7c00 start:   ljmp $0, $begin        some firmware starts at 07C0:0000
    "31c0"  #            7c05 begin:   xor %ax, %ax
    "8ed8"  #            7c07          mov %ax, %ds
    "8ed0"  #            7c09          mov %ax, %ss
    "bc007c"  #          7c0b          mov $0x7c00, %sp
    "fc"  #              7c0e          cld
    "fb"  #              7c0f          sti
    "ba0206"  #          7c10          mov $0x602, %dx
    "a1ac7d"  #          7c13          mov buttons, %ax
    "ef"  #              7c16          out %ax, %dx           QEMU drops a press that is not enabled
    "bec77c"  #          7c17          mov $greeting, %si     from here on all is heard
    "e87e00"  #          7c1a          call print
    "6631ed"  #          7c1d          xor %ebp, %ebp         seconds so far
    "8b1e6c04"  #        7c20 second:  mov 0x46c, %bx         the BIOS counts its timer's ticks here
    "f4"  #              7c24 wait:    hlt
    "ba0006"  #          7c25          mov $0x600, %dx
    "ed"  #              7c28          in %dx, %ax
    "2306ac7d"  #        7c29          and buttons, %ax
    "7529"  #            7c2d          jnz button
    "a16c04"  #          7c2f          mov 0x46c, %ax
    "29d8"  #            7c32          sub %bx, %ax
    "83f812"  #          7c34          cmp $18, %ax
    "72eb"  #            7c37          jb wait
    "6645"  #            7c39          inc %ebp
    "bea17c"  #          7c3b          mov $tick, %si
    "e85a00"  #          7c3e          call print
    "6689e8"  #          7c41          mov %ebp, %eax
    "e82800"  #          7c44          call number
    "bea77c"  #          7c47          mov $newline, %si
    "e84e00"  #          7c4a          call print
    "66392ea87d"  #      7c4d          cmp %ebp, last
    "75cc"  #            7c52          jne second
    "ff26ae7d"  #        7c54          jmp *ending
    "beaa7c"  #          7c58 button:  mov $pressed, %si
    "e83d00"  #          7c5b          call print
    "ba0406"  #          7c5e off:     mov $0x604, %dx
    "b80020"  #          7c61          mov $0x2000, %ax
    "ef"  #              7c64          out %ax, %dx
    "fa"  #              7c65 hang:    cli
    "f4"  #              7c66          hlt
    "ebfc"  #            7c67          jmp hang
    "0f011ee97c"  #      7c69 crash:   lidt nothing           an empty interrupt table:
    "cc"  #              7c6e          int3                   fault, double fault, triple fault
    "6631d2"  #          7c6f number:  xor %edx, %edx         prints %eax, decimal
    "66b90a000000"  #    7c72          mov $10, %ecx
    "66f7f1"  #          7c78          div %ecx
    "52"  #              7c7b          push %dx
    "6685c0"  #          7c7c          test %eax, %eax
    "7403"  #            7c7f          jz digit
    "e8ebff"  #          7c81          call number
    "58"  #              7c84 digit:   pop %ax
    "0430"  #            7c85          add $'0', %al
    "88c4"  #            7c87 put:     mov %al, %ah           prints the character %al
    "bafd03"  #          7c89          mov $0x3fd, %dx
    "ec"  #              7c8c busy:    in %dx, %al
    "a820"  #            7c8d          test $0x20, %al        transmitter empty
    "74fb"  #            7c8f          jz busy
    "baf803"  #          7c91          mov $0x3f8, %dx
    "88e0"  #            7c94          mov %ah, %al
    "ee"  #              7c96          out %al, %dx
    "c3"  #              7c97          ret
    "e8ecff"  #          7c98 next:    call put
    "ac"  #              7c9b print:   lodsb                  prints the string at %si
    "84c0"  #            7c9c          test %al, %al
    "75f8"  #            7c9e          jnz next
    "c3"  #              7ca0          ret
)
STRINGS = (
    b"tick \0"  #        7ca1 tick
    b"\r\n\0"  #         7ca7 newline
    + f"{POWER_BUTTON_PRESSED}\r\n\0".encode()  # 7caa pressed
    + f"{GREETING}\r\n\0".encode()  #             7cc7 greeting
    + b"\0\0\0\0\0\0\0"  # 7ce9 nothing: limit and base of the empty interrupt table
)
# Further endings, behind the strings. The watchdog is q35's own (iTCO): registers at 0x660, and a bit in the chipset's
# memory, above what 16 bits reach, that keeps it from biting.
ENDINGS = bytes.fromhex(
    "ba0505"  #          7cf0 panic:   mov $0x505, %dx        pvpanic
    "b001"  #            7cf3          mov $1, %al
    "ee"  #              7cf5          out %al, %dx
    "e96cff"  #          7cf6          jmp hang
    "fa"  #              7cf9 unfed:   cli
    "0f0116657d"  #      7cfa          lgdt gdtr              %fs over all memory ("unreal mode")
    "0f20c0"  #          7cff          mov %cr0, %eax
    "0c01"  #            7d02          or $1, %al
    "0f22c0"  #          7d04          mov %eax, %cr0
    "bb0800"  #          7d07          mov $8, %bx
    "8ee3"  #            7d0a          mov %bx, %fs
    "24fe"  #            7d0c          and $0xfe, %al
    "0f22c0"  #          7d0e          mov %eax, %cr0
    "fb"  #              7d11          sti
    "66bf10f4d1fe"  #    7d12          mov $0xfed1f410, %edi  chipset's general control and status:
    "64678027df"  #      7d18          andb $0xdf, %fs:(%edi) clear "no reboot"
    "ba7206"  #          7d1d          mov $0x672, %dx        two periods of 1.2 s until it bites
    "b80200"  #          7d20          mov $2, %ax
    "ef"  #              7d23          out %ax, %dx
    "ba6806"  #          7d24          mov $0x668, %dx        let it run
    "31c0"  #            7d27          xor %ax, %ax
    "ef"  #              7d29          out %ax, %dx
    "ba6006"  #          7d2a          mov $0x660, %dx        from the beginning
    "ef"  #              7d2d          out %ax, %dx
    "e934ff"  #          7d2e          jmp hang
    "be4d7d"  #          7d31 write:   mov $packet, %si       32 KiB to the disk, by the BIOS
    "b80043"  #          7d34          mov $0x4300, %ax
    "b280"  #            7d37          mov $0x80, %dl
    "cd13"  #            7d39          int $0x13
    "0f8226ff"  #        7d3b          jc hang
    "668306557d40"  #    7d3f          addl $64, packet + 8   behind them the next time,
    "66ff06a87d"  #      7d45          incl last              which is the next second
    "e9d3fe"  #          7d4a          jmp second
    "10004000007c00004000000000000000"  # 7d4d packet
    "ffff00000092cf00"  # 7d5d                                 a data segment of 4 GiB
    "0f00557d0000"  #    7d65 gdtr
    "31c0"  #            7d6b echo:    xor %ax, %ax           waits for a key, by the BIOS,
    "cd16"  #            7d6d          int $0x16
    "e815ff"  #          7d6f          call put               and prints its character
    "ebf7"  #            7d72          jmp echo
)
CHOICES_AT = 0x1A8
"""Behind the code: last (4 bytes, the second that ends it, 0 for none), buttons (2), ending (2, an address)."""

HANG, OFF, CRASH, PANIC, UNFED, WRITE, ECHO = 0x7C65, 0x7C5E, 0x7C69, 0x7CF0, 0x7CF9, 0x7D31, 0x7D6B
POWER_BUTTON = 0x100


class BootSectorKind(StrEnum):
    """What the guest does beside greeting and ticking."""

    DEAF = "deaf"
    """Nothing: it never reacts to the power button, as a hung guest."""
    OBEDIENT = "obedient"
    """The power button makes it print `POWER_BUTTON_PRESSED` and power itself off, within a tenth of a second."""
    POWERS_OFF = "powers-off"
    """It powers itself off after the given number of ticks (QMP: SHUTDOWN, reason guest-shutdown)."""
    CRASHES = "crashes"
    """It resets by a triple fault after the given number of ticks (QMP: RESET, reason guest-reset), and boots again."""
    PANICS = "panics"
    """It tells pvpanic of a panic after the given number of ticks (QMP: GUEST_PANICKED)."""
    UNFED = "unfed"
    """It winds up q35's watchdog after the given number of ticks and never feeds it (QMP: WATCHDOG, seconds later)."""
    WRITES = "writes"
    """From the given tick on it writes 32 KiB more to its disk each second; an error ends the ticks."""
    ECHOES = "echoes"
    """After the given number of ticks it prints the character of each key that is pressed, and nothing else."""


def boot_sector(kind: BootSectorKind, ticks: int = 3) -> bytes:
    """The first sector of the disk. `ticks` is when those that end or write begin to; the others tick for ever."""
    if ticks < 1:
        raise ValueError(f"ticks must be at least 1, not {ticks}")
    last, buttons, ending = {
        BootSectorKind.DEAF: (0, 0, HANG),
        BootSectorKind.OBEDIENT: (0, POWER_BUTTON, HANG),
        BootSectorKind.POWERS_OFF: (ticks, 0, OFF),
        BootSectorKind.CRASHES: (ticks, 0, CRASH),
        BootSectorKind.PANICS: (ticks, 0, PANIC),
        BootSectorKind.UNFED: (ticks, 0, UNFED),
        BootSectorKind.WRITES: (ticks, 0, WRITE),
        BootSectorKind.ECHOES: (ticks, 0, ECHO),
    }[kind]
    program = (CODE + STRINGS + ENDINGS).ljust(CHOICES_AT, b"\0") + struct.pack("<IHH", last, buttons, ending)
    return program.ljust(446, b"\0") + _partition_table(IMAGE_BYTES // SECTOR_BYTES) + b"\x55\xaa"


def boot_sector_image(kind: BootSectorKind, path: Path, ticks: int = 3) -> Path:
    """Writes a raw disk image of `IMAGE_BYTES`, sparse behind its first sector, and returns `path`."""
    with path.open("wb") as image:
        image.write(boot_sector(kind, ticks))
        image.truncate(IMAGE_BYTES)
    return path


def _partition_table(sectors: int) -> bytes:
    """One bootable partition of type 0xDA (no file system) from sector 1 to the end; CHS fields say "use LBA"."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0xDA, b"\xfe\xff\xff", 1, sectors - 1)
    return entry.ljust(4 * len(entry), b"\0")
