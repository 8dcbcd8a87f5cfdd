package agent

import (
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
)

// On a full disk the old content stays, the room that half a download took is given back, and it is tried again.
func TestNoRoomForContent(t *testing.T) {
	w := newWorld(t)
	w.online()
	dir := filepath.Join(w.path, "content")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	for i, version := range []string{"1041", "1042"} {
		file := fleettest.Bundle(version, 50_000+450_000*i)
		w.gateway.Have(file, "")
		w.push(w.fleet.Offer(version, file, nil))
		w.live(time.Second)
	}
	if s := w.told("1041", isFailed, "NoSpace", 2); s.GetMessage() != "content 1042 not applied: there is no room on the disk for it" || w.inUse() != "1041" {
		t.Errorf("%v; in use is %s", s, w.inUse())
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil || disk.Bfree < disk.Blocks/2 {
		t.Errorf("%d of %d blocks are free: %v", disk.Bfree, disk.Blocks, err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	w.live(10 * time.Minute)
	w.told("1042", isCurrent, "", 2)
}
