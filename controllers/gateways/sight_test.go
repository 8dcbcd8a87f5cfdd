package gateways

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const patience = 15 * time.Second

var epoch = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

func TestSight(t *testing.T) {
	type look struct {
		at       int
		versions string // of the Leases a, b, c …; a blank is none
	}
	for _, tt := range []struct {
		name     string
		looks    []look
		now      int
		from, to int // -1: there was no sign of life
		missing  int // -1: none is
		alive    int
	}{
		{name: "nothing was seen yet", from: -1, to: -1, missing: -1},
		{name: "a Lease that was there before says nothing", looks: []look{{0, "1"}, {2, "1"}}, now: 2, from: -1, to: -1, missing: -1},
		{name: "until it is renewed: then its gateway was alive after the look before", looks: []look{{0, "1"}, {2, "1"}, {4, "2"}}, now: 4, from: 2, to: 2, missing: -1, alive: 1},
		{name: "a new one is a sign of life", looks: []look{{0, "1"}, {2, "11"}}, now: 2, from: 0, to: 0, missing: -1, alive: 1},
		{name: "a stretch grows", looks: []look{{0, "1"}, {2, "2"}, {12, "3"}, {14, "3"}, {16, "4"}}, now: 16, from: 0, to: 14, missing: -1, alive: 1},
		{name: "whichever gateway it is", looks: []look{{0, "11"}, {2, "21"}, {12, "22"}, {22, "32"}}, now: 22, from: 0, to: 12, missing: -1, alive: 2},
		{name: "a renewal just in time", looks: []look{{0, "1"}, {1, "2"}, {15, "2"}, {16, "3"}}, now: 16, from: 0, to: 15, missing: -1, alive: 1},
		{name: "and one too late begins a new stretch", looks: []look{{0, "1"}, {1, "2"}, {16, "2"}, {17, "3"}}, now: 17, from: 16, to: 16, missing: -1, alive: 1},
		{name: "no renewal for longer than it is good for: missing since the last", looks: []look{{0, "1"}, {5, "2"}, {10, "2"}, {15, "2"}, {20, "2"}}, now: 21, from: 0, to: 0, missing: 0},
		{name: "not yet at once after the start", looks: []look{{0, "1"}, {15, "1"}}, now: 15, from: -1, to: -1, missing: -1},
		{name: "but soon", looks: []look{{0, "1"}, {15, "1"}, {16, "1"}}, now: 16, from: -1, to: -1, missing: 0},
		{name: "not while the API server is away", looks: []look{{0, "1"}, {5, "2"}, {10, "2"}, {20, "2"}}, now: 36, from: 0, to: 0, missing: -1},
		{name: "nor at once when it is back", looks: []look{{0, "1"}, {5, "2"}, {1000, "2"}, {1015, "2"}}, now: 1015, from: 0, to: 0, missing: -1},
		{name: "a renewal while it was away is no sign of what is now", looks: []look{{0, "1"}, {5, "2"}, {1000, "3"}}, now: 1000, from: 0, to: 5, missing: -1, alive: 1},
		{name: "the next one is", looks: []look{{0, "1"}, {5, "2"}, {1000, "3"}, {1003, "4"}}, now: 1003, from: 1000, to: 1000, missing: -1, alive: 1},
		{name: "a machine that slept", looks: []look{{0, "1"}, {5, "2"}, {10, "3"}, {30000, "3"}, {30005, "4"}}, now: 30005, from: 30000, to: 30000, missing: -1, alive: 1},
		{name: "a clock that was set back", looks: []look{{100, "1"}, {105, "2"}, {50, "3"}, {55, "4"}}, now: 55, from: 50, to: 50, missing: -1, alive: 1},
		{name: "all are gone", looks: []look{{0, "1"}, {5, "2"}, {10, ""}, {21, ""}}, now: 21, from: 0, to: 0, missing: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sight{patience: patience}
			for _, l := range tt.looks {
				versions := map[string]string{}
				for i, v := range l.versions {
					versions[string(rune('a'+i))] = string(v)
				}
				s.look(at(l.at), versions)
			}
			want := func(what string, got time.Time, seconds int) {
				t.Helper()
				if seconds < 0 && !got.IsZero() || seconds >= 0 && !got.Equal(at(seconds)) {
					t.Errorf("%s %s, want second %d", what, got.Format(time.TimeOnly), seconds)
				}
			}
			want("alive from", s.from, tt.from)
			want("alive to", s.to, tt.to)
			want("missing since", s.missing(at(tt.now)), tt.missing)
			if n := s.alive(at(tt.now)); n != tt.alive {
				t.Errorf("%d are alive, want %d", n, tt.alive)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	s := sight{patience: patience}
	for i := range 10 {
		s.look(at(i*10), map[string]string{"dead": "1", "alive": fmt.Sprint(i)})
	}
	if d := s.silence("dead", at(90)); d != 90*time.Second {
		t.Errorf("silent for %s, want 90s", d)
	}
	if d := s.silence("alive", at(90)); d != 0 {
		t.Errorf("silent for %s, want 0s", d)
	}
	s.look(at(5000), map[string]string{"dead": "1", "alive": "9"})
	if d := s.silence("dead", at(5003)); d != 3*time.Second {
		t.Errorf("silent for %s, want 3s: the API server was away, and nobody could renew", d)
	}
}

// history is a random past of two gateways and an API server, and what was seen of it.
type history struct {
	sight    sight
	now      time.Time
	renewals []time.Time
	looks    []time.Time // good ones
	failed   []time.Time
}

func drawHistory(t *rapid.T) *history {
	h := &history{sight: sight{patience: patience}, now: epoch}
	versions, up := map[string]string{}, map[string]bool{}
	next := map[string]time.Time{}
	api, nextLook := true, epoch
	for range rapid.IntRange(10, 300).Draw(t, "steps") {
		switch rapid.IntRange(0, 60).Draw(t, "event") {
		case 0:
			api = !api
		case 1, 2:
			g := rapid.SampledFrom([]string{"gw-a", "gw-b"}).Draw(t, "gateway")
			up[g], next[g] = !up[g], h.now
		case 3:
			h.now = h.now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "pause")) * time.Second) // we were not scheduled
		}
		h.now = h.now.Add(500 * time.Millisecond)
		for _, g := range []string{"gw-a", "gw-b"} {
			if api && up[g] && !next[g].After(h.now) {
				h.renewals = append(h.renewals, h.now)
				versions[g] = fmt.Sprint(len(h.renewals))
				next[g] = h.now.Add(patience / 3)
			}
		}
		if !nextLook.After(h.now) {
			nextLook = h.now.Add(patience / looksPerLease)
			if !api {
				h.failed = append(h.failed, h.now)
				continue
			}
			h.looks = append(h.looks, h.now)
			h.sight.look(h.now, versions)
		}
	}
	return h
}

// A stretch is no invention: at each of its moments a gateway was about to renew, or just had.
func TestStretchesAreTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		from, to := h.sight.from, h.sight.to
		for m := from; m.Before(to); m = m.Add(time.Second) {
			near := false
			for _, r := range h.renewals {
				near = near || r.Sub(m).Abs() <= patience
			}
			if !near {
				t.Fatalf("a gateway was alive from %s to %s, it says, but nobody renewed around %s", from, to, m)
			}
		}
		if to.After(h.now) || from.After(to) {
			t.Fatalf("a stretch from %s to %s at %s", from, to, h.now)
		}
	})
}

// Missing is no invention either: since then every look was answered, and none found a renewal.
func TestMissingIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		since := h.sight.missing(h.now)
		if since.IsZero() {
			return
		}
		last := h.looks[len(h.looks)-1]
		for _, r := range h.renewals {
			if r.After(since.Add(patience)) && r.Before(last) {
				t.Fatalf("missing since %s, it says, but one renewed at %s", since, r)
			}
		}
		previous := since
		for _, l := range h.looks {
			if l.After(since) {
				if l.Sub(previous) > patience {
					t.Fatalf("missing since %s, it says, but nobody looked between %s and %s", since, previous, l)
				}
				previous = l
			}
		}
	})
}

// What was there is seen: while a gateway renews and the API server answers, the stretch goes on and nothing is missing.
func TestWhatIsThereIsSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := sight{patience: patience}, epoch
		renew, versions, n := now, map[string]string{}, 0
		interval := time.Duration(rapid.IntRange(1000, int(patience/time.Millisecond)*2/3).Draw(t, "renew")) * time.Millisecond
		end := epoch.Add(5 * time.Minute)
		for now.Before(end) {
			now = now.Add(patience/looksPerLease + time.Duration(rapid.IntRange(0, 500).Draw(t, "late"))*time.Millisecond)
			for !renew.After(now) {
				renew, n = renew.Add(interval), n+1
				versions["gw-a"] = fmt.Sprint(n)
			}
			s.look(now, versions)
		}
		if s.from.After(epoch.Add(patience)) || now.Sub(s.to) > patience || !s.missing(now).IsZero() || s.alive(now) != 1 {
			t.Fatalf("renewed every %s from %s to %s, but seen from %s to %s, missing %s", interval, epoch, now, s.from, s.to, s.missing(now))
		}
	})
}
