package state

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
)

const uid = "e58ed763-928c-4155-bee9-fdbaaadc15f3"

func withJournal(t *testing.T) *Dir {
	t.Helper()
	d := open(t, t.TempDir())
	if d.HasJournal() {
		t.Fatal("a journal from nowhere")
	}
	if err := d.MakeJournal(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestJournalOfActions(t *testing.T) {
	d := withJournal(t)
	if !d.HasJournal() {
		t.Fatal("no journal was made")
	}
	if r, err := d.Action(uid); r != nil || err != nil {
		t.Fatalf("a record from nowhere: %v, %v", r, err)
	}
	if err := d.SaveAction(uid, &statev1.JournalRecord{State: 2, Result: []byte("x")}, true); err != nil {
		t.Fatal(err)
	}
	// What a crash left half written is no record, and goes; what was set aside is none either.
	for _, name := range []string{"half.tmp", uid + ".corrupt"} {
		if err := os.WriteFile(filepath.Join(d.path, "actions", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_ = d.Close()
	d = open(t, d.path)
	if _, err := os.Stat(filepath.Join(d.path, "actions", "half.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a record is still here: %v", err)
	}
	uids, err := d.Actions()
	r, err2 := d.Action(uid)
	if err := errors.Join(err, err2); err != nil || !slices.Equal(uids, []string{uid}) || r.GetState() != 2 || string(r.GetResult()) != "x" {
		t.Errorf("%v, %v, %v", uids, r, err)
	}
	if err := d.DropActions(uid, "another"); err != nil {
		t.Fatal(err)
	}
	if uids, err := d.Actions(); err != nil || len(uids) != 0 {
		t.Errorf("%v, %v", uids, err)
	}
	if uids, err := Actions(t.TempDir()); err != nil || uids != nil {
		t.Errorf("where there is no journal: %v, %v", uids, err)
	}
}

// A damaged record stays known by its name while it is also set aside, and has what can still be read.
func TestDamagedRecord(t *testing.T) {
	for how, damage := range map[string]func([]byte) []byte{
		"empty":    func([]byte) []byte { return nil },
		"cut":      func(b []byte) []byte { return b[:len(b)/2] },
		"checksum": func(b []byte) []byte { b[1] ^= 1; return b },
		"enormous": func(b []byte) []byte { return append(b, make([]byte, maxFileBytes)...) },
	} {
		d := withJournal(t)
		if err := d.SaveAction(uid, &statev1.JournalRecord{State: 2, Result: []byte("result")}, true); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(d.path, "actions", uid)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, damage(b), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := d.Action(uid)
		if !errors.Is(err, ErrCorrupt) || how == "checksum" && string(r.GetResult()) != "result" {
			t.Errorf("%s: %v, %v", how, r, err)
		}
		for range 2 {
			d.SetActionAside(uid, err)
		}
		uids, err := d.Actions()
		if _, err := os.Stat(file + asideSuffix); err != nil || !slices.Equal(uids, []string{uid}) {
			t.Errorf("%s: %v, %v", how, uids, err)
		}
		if len(d.Damaged()) != 2 || err != nil {
			t.Errorf("%s: damage %q, %v", how, d.Damaged(), err)
		}
	}
}

func TestResetForgetsActions(t *testing.T) {
	d := withJournal(t)
	if err := errors.Join(d.SaveAction(uid, &statev1.JournalRecord{State: 2}, true), d.Reset()); err != nil {
		t.Fatal(err)
	}
	if d.HasJournal() {
		t.Error("the journal is still here")
	}
}
