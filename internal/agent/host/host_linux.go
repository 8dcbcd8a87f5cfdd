package host

import (
	"time"

	"golang.org/x/sys/unix"
)

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

// machineID is machine-id(5). Not the firmware's UUID: those are not unique.
func machineID() string { return firstFile("/etc/machine-id", "/var/lib/dbus/machine-id") }

func bootID() string { return firstFile("/proc/sys/kernel/random/boot_id") }

func model() string { return firstFile("/sys/class/dmi/id/product_name", "/proc/device-tree/model") }
