package probe

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const status = "Name:\tgateway\nVmHWM:\t   21504 kB\nVmRSS:\t   20480 kB\nThreads:\t9\n"
	if n, err := parse([]byte(status), "VmHWM:"); err != nil || n != 21504<<10 {
		t.Errorf("%d, %v", n, err)
	}
	for name, text := range map[string]string{"no such line": status, "no number": "Rss: x kB\n", "no unit": "Rss: 17\n"} {
		if n, err := parse([]byte(text), "Rss:"); err == nil {
			t.Errorf("%s: %d", name, n)
		}
	}
}

// What a process burns and holds itself, it sees from outside.
func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	cpu, err := CPU(pid)
	if err != nil {
		t.Fatal(err)
	}
	own := ownCPU(t)
	for ownCPU(t)-own < 50*time.Millisecond { // whatever else the machine does
	}
	after, err := CPU(pid)
	if used := after - cpu; err != nil || used < 40*time.Millisecond || used > 5*time.Second {
		t.Errorf("50 ms of work took %s of CPU, %v", used, err)
	}
	before, err := Settled(t.Context(), pid, 50*time.Millisecond, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = byte(i)
	}
	now, err := Resident(pid)
	if grown := now - before; err != nil || grown < 60<<20 || grown > 80<<20 {
		t.Errorf("64 MiB made it grow by %d bytes, %v", grown, err)
	}
	if peak, err := Peak(pid); err != nil || peak < now-(8<<20) {
		t.Errorf("the peak is %d, below the %d of now, %v", peak, now, err)
	}
	runtime.KeepAlive(held)
}

// ownCPU is what the kernel says of it.
func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestNoSuchProcess(t *testing.T) {
	if _, err := CPU(1 << 22); err == nil {
		t.Error("CPU of no process")
	}
	if _, err := Resident(1 << 22); err == nil {
		t.Error("memory of no process")
	}
}
