package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// Killed after any change on the disk: the next process has the old content in use or the new one, whole, before it has spoken to anybody; and ends
// with the new one.
func TestKilledWhileContentIsTaken(t *testing.T) {
	n, uses := 1, map[string]int{}
	for ; ; n++ {
		w, _ := running(t, "1041")
		for _, version := range []string{"1042", "1043"} { // so that something goes, too
			file := fleettest.Bundle(version, 50_000)
			w.gateway.Have(file, "")
			offer := w.fleet.Offer(version, file, nil)
			if version == "1042" {
				w.push(offer)
				w.live(time.Second)
				continue
			}
			was := w.killedAt(n, func() {
				w.push(offer)
				w.live(time.Second)
			})
			if !was {
				if n < 5 {
					t.Errorf("only %d changes on the disk: this tested little", n-1)
				}
				if uses["1042"] == 0 || uses["1043"] == 0 {
					t.Errorf("in use after the crashes were %v", uses)
				}
				return
			}
			w.offers(nil, offer)
			w.crash()
			uses[w.inUse()]++
			if got := w.inUse(); got != "1042" && got != "1043" {
				t.Fatalf("killed at change %d: %s is in use", n, got)
			}
			w.online()
			w.live(6 * time.Minute)
			if w.told("1043", isCurrent, "", 3); w.inUse() != "1043" {
				t.Errorf("killed at change %d: %s is in use", n, w.inUse())
			}
			if damaged := w.Dir.Damaged(); damaged != nil {
				t.Errorf("killed at change %d: %v", n, damaged)
			}
		}
	}
}

// Content that was damaged while the agent was away is found at the start, told with what is in use instead, and fetched again.
func TestDamagedContent(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, c := range map[string]struct {
		current, previous, record func([]byte) []byte
		instead                   string
	}{
		"a bit":            {flip, nil, nil, "1041"},
		"cut":              {func(b []byte) []byte { return b[:10] }, nil, nil, "1041"},
		"gone":             {func([]byte) []byte { return nil }, nil, nil, "1041"},
		"enormous":         {func(b []byte) []byte { return append(b, make([]byte, content.MaxBytes)...) }, nil, nil, "1041"},
		"both":             {flip, flip, nil, ""},
		"the one before":   {nil, flip, nil, "1042"},
		"the record":       {nil, nil, flip, "none"},
		"record and files": {flip, flip, flip, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			w, older := running(t, "1041")
			newer := fleettest.Bundle("1042", 50_000)
			w.gateway.Have(newer, "")
			w.push(w.fleet.Offer("1042", newer, nil))
			w.live(time.Second)
			w.told("1042", isCurrent, "", 2)
			beats := len(w.gateway.Beats())
			for file, damage := range map[string]func([]byte) []byte{content.Digest(newer): c.current, content.Digest(older): c.previous, "in-use": c.record} {
				if damage != nil {
					spoil(t, filepath.Join(w.path, "content", file), damage)
				}
			}
			w.crash()
			w.online()
			w.live(time.Minute)
			w.told("1042", isCurrent, "", 2)
			if w.inUse() != "1042" {
				t.Errorf("in use is %s", w.inUse())
			}
			first := w.gateway.Beats()[beats].GetContent()
			switch c.instead {
			case "1042":
				if first.GetPhase() != isCurrent {
					t.Errorf("told %v", first)
				}
				return
			case "none": // which was in use, nobody knows until the next step
			default:
				if first.GetPhase() != isFailed || first.GetReason() != "Damaged" || first.GetVersion() != c.instead || (first.GetDigest() == "") != (c.instead == "") ||
					!strings.Contains(first.GetMessage(), "version 1042") {
					t.Errorf("told %v", first)
				}
			}
			if len(w.Status().Damaged) == 0 {
				t.Error("no damage is shown")
			}
		})
	}
}

func spoil(t *testing.T, file string, damage func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := damage(bytes.Clone(b))
	if damaged == nil {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, damaged, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
