package state

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
)

// On a disk that is full to the last byte the agent still starts a new epoch: the reserve makes room.
func TestFullDisk(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, 0) })
	d := open(t, filepath.Join(path, "state"))
	if err := d.Save(&statev1.AgentState{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if err := d.MakeJournal(); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveAction(uid, &statev1.JournalRecord{State: 1}, true); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(path, "log"))
	if err := d.SaveAction("another", &statev1.JournalRecord{State: 1, Intent: make([]byte, 8<<10)}, true); !IsFull(err) {
		t.Errorf("took an action on a full disk: %v", err)
	}
	if _, err := os.Stat(d.file("reserve")); err != nil {
		t.Errorf("gave the reserve up for it: %v", err)
	}
	if err := d.SaveAction(uid, &statev1.JournalRecord{State: 3, Result: make([]byte, 8<<10)}, false); err != nil {
		t.Errorf("no room for the result of what was begun: %v", err)
	}
	_ = d.Close()

	d = open(t, filepath.Join(path, "state"))
	if err := d.Save(&statev1.AgentState{Epoch: 2}); err != nil {
		t.Fatalf("no room for the epoch: %v", err)
	}
	fill(t, filepath.Join(path, "log2"))
	if err := d.Save(&statev1.AgentState{Epoch: 3, JournalId: string(make([]byte, 100<<10))}); err == nil {
		t.Fatal("wrote 100 KiB to a full disk")
	}
	if s, err := d.Load(); err != nil || s.GetEpoch() != 2 {
		t.Errorf("what was there before is gone: %v, %v", s, err)
	}
	_ = d.Close()
}

// fill writes a file until there is no room.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()
}
