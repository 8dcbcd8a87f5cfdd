package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Cut ten times, in the middle of which the process dies: each attempt goes on where the one before has ended.
func TestDownloadGoesOn(t *testing.T) {
	w := newWorld(t)
	w.online()
	const size, cuts = 1_000_000, 10
	file := fleettest.Bundle("1042", size)
	w.gateway.Have(file, "")
	for range cuts {
		w.gateway.Next(fleettest.ArtifactPath(file), fleettest.CutAfter(size/cuts-10_000))
	}
	w.offers(nil, w.fleet.Offer("1042", file, nil))
	w.live(5 * time.Minute)
	w.crash()
	w.online()
	w.live(10 * time.Minute)
	w.told("1042", isCurrent, "", 1)
	served, ranges := w.gateway.Served()
	if len(ranges) != cuts+1 || ranges[0] != "" || slices.Contains(ranges[1:], "") || served > len(file)+cuts*(16<<10) {
		t.Errorf("%d bytes of %d, in %q", served, len(file), ranges)
	}
	for _, beat := range w.gateway.Beats() {
		if beat.GetContent().GetPhase() == isFailed {
			t.Errorf("told %v", beat.GetContent())
		}
	}
}

// A part that a power cut has spoilt is no reason to say that the server's file is bad.
func TestSpoiltPart(t *testing.T) {
	w := newWorld(t)
	w.online()
	file := fleettest.Bundle("1042", 100_000)
	offer := w.fleet.Offer("1042", file, nil)
	w.gateway.Have(file, "")
	path := fleettest.ArtifactPath(file)
	part := filepath.Join(w.path, "content", path[len(path)-64:]+".part")
	for name, spoilt := range map[string][]byte{"zeros": make([]byte, 50_000), "too long": make([]byte, 200_000), "as long": make([]byte, len(file))} {
		if err := os.WriteFile(part, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		w.push(offer)
		w.live(time.Minute)
		if w.told("1042", isCurrent, "", 1); w.inUse() != "1042" {
			t.Error(name)
		}
		for _, beat := range w.gateway.Beats() {
			if beat.GetContent().GetPhase() == isFailed {
				t.Errorf("%s: told %v", name, beat.GetContent())
			}
		}
		w.kept.ContentOffers = nil
		if err := w.Dir.Save(w.kept); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(w.path, "content", "in-use")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(strings.TrimSuffix(part, ".part")); err != nil {
			t.Fatal(err)
		}
		w.crash()
		w.online()
	}
}

// Told to wait, it waits as long, and calls it no failure.
func TestDownloadIsThrottled(t *testing.T) {
	w, _ := running(t, "1041")
	file := fleettest.Bundle("1042", 1000)
	w.gateway.Have(file, "")
	var asked []time.Time
	for range 5 {
		w.gateway.Next(fleettest.ArtifactPath(file), func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			asked = append(asked, w.machine.now())
			(&wire.Problem{Name: wire.Throttled, RetryAfter: time.Minute}).Write(rw)
		})
	}
	w.push(w.fleet.Offer("1042", file, nil))
	w.live(20 * time.Minute)
	w.told("1042", isCurrent, "", 2)
	for i, at := range asked[1:] {
		if waited := at.Sub(asked[i]); waited < 48*time.Second || waited > 5*time.Minute {
			t.Errorf("came back after %s", waited)
		}
	}
	for _, beat := range w.gateway.Beats() {
		if beat.GetContent().GetPhase() == isFailed {
			t.Errorf("told %v", beat.GetContent())
		}
	}
}

// A server that does not have the file, or gives something else, is asked ever more seldom; that is told after some attempts.
func TestDownloadFails(t *testing.T) {
	for name, answer := range map[string]fleettest.Answer{
		"not there": fleettest.Refuse(&wire.Problem{Name: wire.NotFound}),
		"no answer": func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) },
		"another range": func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			w.WriteHeader(http.StatusPartialContent)
		},
		"elsewhere": func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			http.Redirect(w, r, "/x", http.StatusFound)
		},
		"of another kind": func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
			w.Header().Set("Content-Encoding", "gzip")
			real(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := running(t, "1041")
			file := fleettest.Bundle("1042", 1000)
			w.gateway.Have(file, "")
			asked := 0
			for range 1000 {
				w.gateway.Next(fleettest.ArtifactPath(file), func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
					asked++
					answer(rw, r, real)
				})
			}
			w.push(w.fleet.Offer("1042", file, nil))
			w.live(time.Minute)
			w.told("1041", isFailed, "DownloadFailed", 2)
			w.live(2 * time.Hour)
			if w.told("1041", isFailed, "DownloadFailed", 2); asked < 20 || asked > 70 {
				t.Errorf("asked %d times in two hours", asked)
			}
			w.expect("Online")
			w.gateway.Unbend(fleettest.ArtifactPath(file))
			w.live(6 * time.Minute)
			w.told("1042", isCurrent, "", 2)
		})
	}
}

// Heartbeats and orders do not wait for a download, and one that is not wanted any more gives way.
func TestDownloadIsHeld(t *testing.T) {
	w, _ := running(t, "1041")
	file, better := fleettest.Bundle("1042", 1000), fleettest.Bundle("1043", 1000)
	w.gateway.Have(file, "")
	w.gateway.Have(better, "")
	held := make(chan struct{})
	w.gateway.Next(fleettest.ArtifactPath(file), func(rw http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		rw.Header().Set("Content-Length", "1000")
		_, _ = rw.Write(file[:100])
		_ = http.NewResponseController(rw).Flush()
		close(held)
		<-r.Context().Done()
	})
	w.deaf = toActions
	beats := len(w.gateway.Beats())
	w.push(w.fleet.Offer("1042", file, nil))
	w.Step(t.Context())
	<-held
	w.live(30 * time.Minute)
	if n := len(w.gateway.Beats()) - beats; n < 5 {
		t.Errorf("%d heartbeats in half an hour", n)
	}
	w.told("1041", isDownloading, "", 2)
	w.push(w.fleet.Offer("1043", better, nil))
	w.deaf = toNothing
	w.live(time.Minute)
	w.told("1043", isCurrent, "", 3)
}

// The policy's rate is kept to.
func TestDownloadRate(t *testing.T) {
	w := newWorld(t)
	w.online()
	file := fleettest.Bundle("1042", 100_000)
	w.gateway.Have(file, "")
	w.machine.pass(time.Second)
	w.offers(&agentv1.Policy{PolicyId: policyID, Revision: 1, DownloadBytesPerSecond: 100_000}, w.fleet.Offer("1042", file, nil))
	began := time.Now()
	w.live(10 * time.Minute)
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("100 KB at 100 KB/s took %s", took)
	}
	w.told("1042", isCurrent, "", 1)
}
