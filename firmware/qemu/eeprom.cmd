# Plays the Raspberry Pi's EEPROM in QEMU (U-Boot script, made into boot.scr by the image tool).
# It reads the autoboot.txt that the Pi reads, honours a one-shot try, tells the kernel which slot
# was booted as the Pi does, and knows nothing else of the system on the other disk.

setenv lucid_os 1
setenv lucid_try 0

# A try is armed by a file on this disk; it counts once.
if test -e virtio 0:1 tryboot; then
  setenv lucid_try 1
  fatrm virtio 0:1 tryboot
fi

# autoboot.txt of the first partition: without a try, what stands under [tryboot] does not count;
# the last boot_partition= wins. (U-Boot's regular expressions have neither ranges nor negated sets.)
load virtio ${lucid_os}:1 ${loadaddr} autoboot.txt
setexpr lucid_end ${loadaddr} + ${filesize}
mw.b ${lucid_end} 0
setexpr.s lucid_text *${loadaddr}
if test ${lucid_try} -eq 0; then
  setexpr lucid_text sub "[[]tryboot].*" ""
fi
setexpr lucid_text sub ".*boot_partition=" ""
setexpr lucid_part sub "([0123456789]+).*" "\\1" "${lucid_text}"
echo "Lucid: partition ${lucid_part}, try ${lucid_try}"

# The command line without the newline at its end; serial0 becomes the board's own UART, as on the Pi.
load virtio ${lucid_os}:${lucid_part} ${loadaddr} cmdline.txt
setexpr lucid_end ${loadaddr} + ${filesize}
setexpr lucid_end ${lucid_end} - 1
mw.b ${lucid_end} 0
setexpr.s bootargs *${loadaddr}
setexpr bootargs sub "serial0" "ttyAMA0"

load virtio ${lucid_os}:${lucid_part} ${kernel_addr_r} kernel_2712.img
load virtio ${lucid_os}:${lucid_part} ${ramdisk_addr_r} initramfs
setenv lucid_initramfs ${ramdisk_addr_r}:${filesize}

# /chosen/bootloader: u32, big-endian, as the Pi's firmware writes them.
fdt addr ${fdt_addr}
fdt resize 4096
fdt mknode /chosen bootloader
fdt set /chosen/bootloader partition <${lucid_part}>
fdt set /chosen/bootloader tryboot <${lucid_try}>
# When it was built: 2025-08-27, the oldest of which a Pi takes updates.
fdt set /chosen/bootloader build-timestamp <0x68ae4a80>
booti ${kernel_addr_r} ${lucid_initramfs} ${fdt_addr}
