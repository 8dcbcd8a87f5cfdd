package gateways

import (
	"fmt"
	"slices"
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
				s.look(at(l.at), versions, true)
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
		s.look(at(i*10), map[string]string{"dead": "1", "alive": fmt.Sprint(i)}, true)
	}
	if d := s.silence("dead", at(90)); d != 90*time.Second {
		t.Errorf("silent for %s, want 90s", d)
	}
	if d := s.silence("alive", at(90)); d != 0 {
		t.Errorf("silent for %s, want 0s", d)
	}
	s.look(at(5000), map[string]string{"dead": "1", "alive": "9"}, true)
	if d := s.silence("dead", at(5003)); d != 3*time.Second {
		t.Errorf("silent for %s, want 3s: the API server was away, and nobody could renew", d)
	}
}

const (
	grace = 3 * time.Minute
	ours  = "gw-a"
)

func TestUntilGone(t *testing.T) {
	const never = -1 // asked about
	type look struct {
		at      int
		version string // of our gateway's Lease; "-": it is not there; "?": it may be behind the end of the list; "": the look fails
	}
	// each second, from the given one on, the same is found
	for _, tt := range []struct {
		name  string
		looks []look
		asked int
		now   int
		want  int
	}{
		{"nothing was seen yet", nil, never, 500, 180},
		{"it lives", []look{{0, "1"}, {170, "2"}}, never, 175, 175},
		{"a Lease that was silent all the time since this manager leads", []look{{0, "1"}}, never, 100, 80},
		{"for long enough", []look{{0, "1"}}, never, 180, 0},
		{"it has just come back", []look{{0, "1"}, {179, "2"}}, never, 180, 179},
		{"it has ended, and taken its Lease along", []look{{0, "1"}, {50, "-"}}, 10, 100, 130},
		{"and stays away", []look{{0, "1"}, {50, "-"}}, 10, 230, 0},
		{"it has ended, and nobody asked before: it may be one that is just beginning", []look{{0, "1"}, {50, "-"}}, never, 400, 180},
		{"it was never there", []look{{0, "-"}}, 100, 200, 80},
		{"for long enough since somebody asked", []look{{0, "-"}}, 100, 280, 0},
		{"it came after somebody had asked", []look{{0, "-"}, {270, "1"}}, 100, 280, 170},
		{"the API server is away", []look{{0, "1"}, {100, ""}}, never, 300, 180},
		{"for less than a renewal is good for", []look{{0, "1"}, {170, ""}, {180, "1"}}, never, 181, 0},
		{"it was away for longer: whoever could not renew has all its time", []look{{0, "1"}, {100, ""}, {200, "1"}}, never, 201, 179},
		{"for whoever is absent, too", []look{{0, "-"}, {100, ""}, {200, "-"}}, 10, 300, 80},
		{"there are more Leases than are looked at", []look{{0, "1"}, {50, "?"}}, never, 100, 80},
		{"and were before", []look{{0, "?"}}, 10, 100, 90},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sight{patience: patience}
			for second := 0; second <= tt.now; second++ {
				if second == tt.asked {
					s.untilGone(ours, at(second), grace)
				}
				found := ""
				for _, l := range tt.looks {
					if l.at <= second {
						found = l.version
					}
				}
				switch found {
				case "":
				case "-", "?":
					s.look(at(second), map[string]string{"gw-other": fmt.Sprint(second)}, found == "-")
				default:
					s.look(at(second), map[string]string{ours: found}, true)
				}
			}
			if got := s.untilGone(ours, at(tt.now), grace); got != time.Duration(tt.want)*time.Second {
				t.Errorf("gone in %s, want %d s", got, tt.want)
			}
		})
	}
}

// What a single look finds counts: a gateway that was renewed since is not gone.
func TestFound(t *testing.T) {
	s := sight{patience: patience}
	s.untilGone(ours, at(0), grace)
	for i := range 181 {
		s.look(at(i), map[string]string{ours: "1"}, true)
	}
	if !s.found(at(180), ours, "1") || s.untilGone(ours, at(180), grace) != 0 {
		t.Error("found as it was, it is not gone")
	}
	if s.found(at(180), ours, "2") || s.untilGone(ours, at(180), grace) != grace {
		t.Error("found renewed, it is gone")
	}
	s.look(at(181), map[string]string{ours: "2"}, true)
	if left := s.untilGone(ours, at(181), grace); left != grace-time.Second {
		t.Errorf("a second after it was found renewed it has %s left", left)
	}
}

func TestWhatIsLongAbsentIsForgotten(t *testing.T) {
	s := sight{patience: patience}
	for i := range 100 {
		s.look(at(i), map[string]string{fmt.Sprint("gw-", i): "1"}, true)
	}
	if len(s.leases) != 1 {
		t.Errorf("%d Leases are remembered that nobody asks about", len(s.leases)-1)
	}
	s.untilGone("gw-99", at(99), grace)
	s.look(at(100), nil, true)
	if s.forget(at(199), 100*time.Second); len(s.leases) != 1 {
		t.Error("one that is asked about was forgotten at once")
	}
	if s.forget(at(201), 100*time.Second); len(s.leases) != 0 {
		t.Error("one that is long gone is remembered")
	}
}

// history is a random past of two gateways and an API server, and what was seen of it.
type history struct {
	t        *rapid.T
	sight    sight
	now      time.Time
	renewals []time.Time // of either
	ours     []time.Time // of one
	looks    []time.Time // good ones
	failed   []time.Time
	asked    time.Time // for the first time
	// quiet is since when our gateway is down, the API server answers and nobody was asleep; zero if that is not so.
	quiet time.Time
	// judged is called after each half second.
	judged func(h *history)

	api      bool
	up       map[string]bool
	versions map[string]string
	renewal  map[string]time.Time // the next one
	nextLook time.Time
}

// drawHistory ends in turmoil, or calmly: the API server answers for long, and our gateway is gone.
func drawHistory(t *rapid.T, judged func(h *history)) *history {
	h := &history{
		t: t, sight: sight{patience: patience}, now: epoch, judged: judged, api: true,
		up: map[string]bool{}, versions: map[string]string{}, renewal: map[string]time.Time{}, nextLook: epoch,
	}
	for range rapid.IntRange(10, 300).Draw(t, "steps") {
		h.trouble()
		h.step()
	}
	if rapid.Bool().Draw(t, "calm") {
		if h.api = true; h.up[ours] {
			h.turn(ours)
		}
		for range 3 * grace / time.Second {
			h.step()
		}
	}
	return h
}

// troubles of half a second; most pass without one.
var troubles = append(make([]string, 40), "API server", "gateway", "gateway", "pause")

func (h *history) trouble() {
	switch rapid.SampledFrom(troubles).Draw(h.t, "trouble") {
	case "API server":
		h.api = !h.api
	case "gateway":
		h.turn(rapid.SampledFrom([]string{ours, "gw-b"}).Draw(h.t, "gateway"))
	case "pause":
		h.now = h.now.Add(time.Duration(rapid.IntRange(0, 100).Draw(h.t, "pause")) * time.Second) // we were not scheduled
		h.quiet = time.Time{}
	}
}

// turn starts a gateway, or ends it.
func (h *history) turn(g string) {
	h.up[g], h.renewal[g] = !h.up[g], h.now
	if h.api && !h.up[g] && rapid.Bool().Draw(h.t, "takes its Lease along") {
		delete(h.versions, g)
		unseen := func(renewal time.Time) bool { return len(h.looks) == 0 || renewal.After(h.looks[len(h.looks)-1]) }
		h.renewals, h.ours = slices.DeleteFunc(h.renewals, unseen), slices.DeleteFunc(h.ours, unseen)
	}
}

// step is half a second.
func (h *history) step() {
	h.now = h.now.Add(500 * time.Millisecond)
	for _, g := range []string{ours, "gw-b"} {
		if h.api && h.up[g] && !h.renewal[g].After(h.now) {
			h.renewals = append(h.renewals, h.now)
			if g == ours {
				h.ours = append(h.ours, h.now)
			}
			h.versions[g] = h.now.String()
			h.renewal[g] = h.now.Add(patience / 3)
		}
	}
	if h.up[ours] || !h.api {
		h.quiet = time.Time{}
	} else if h.quiet.IsZero() {
		h.quiet = h.now
	}
	if !h.nextLook.After(h.now) {
		h.nextLook = h.now.Add(patience / looksPerLease)
		if h.api {
			h.looks = append(h.looks, h.now)
			h.sight.look(h.now, h.versions, true)
		} else {
			h.failed = append(h.failed, h.now)
		}
	}
	if h.judged != nil {
		h.judged(h)
	}
}

// Gone is no invention: for the whole grace every look was answered, and the gateway has written nothing.
func TestGoneIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drawHistory(t, func(h *history) {
			if h.sight.untilGone(ours, h.now, grace) > 0 {
				return
			}
			begin, last := h.now.Add(-grace), h.looks[len(h.looks)-1]
			for _, r := range h.ours {
				if r.After(begin) && !r.After(last) {
					t.Fatalf("gone at %s, it says, but renewed at %s", h.now, r)
				}
			}
			next := h.now
			for _, l := range slices.Backward(h.looks) {
				l = later(l, begin)
				if next.Sub(l) > patience {
					t.Fatalf("gone at %s, it says, but nobody looked between %s and %s", h.now, l, next)
				}
				if next = l; l.Equal(begin) {
					break
				}
			}
		})
	})
}

// Who is gone is found gone, as soon as it can be known.
func TestWhoIsGoneIsFoundGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := time.Duration(rapid.IntRange(0, 200).Draw(t, "asked")) * time.Second
		drawHistory(t, func(h *history) {
			if h.now.Before(epoch.Add(begin)) {
				return
			}
			if h.asked.IsZero() {
				h.asked = h.now
			}
			left := h.sight.untilGone(ours, h.now, grace)
			since := later(h.quiet, h.asked)
			if !h.quiet.IsZero() && h.now.Sub(since) > grace+2*patience/looksPerLease && left > 0 {
				t.Fatalf("down since %s, asked about since %s, and at %s it has %s left", h.quiet, h.asked, h.now, left)
			}
		})
	})
}

// A stretch is no invention: at each of its moments a gateway was about to renew, or just had.
func TestStretchesAreTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t, nil)
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
		h := drawHistory(t, nil)
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
			s.look(now, versions, true)
		}
		if s.from.After(epoch.Add(patience)) || now.Sub(s.to) > patience || !s.missing(now).IsZero() || s.alive(now) != 1 {
			t.Fatalf("renewed every %s from %s to %s, but seen from %s to %s, missing %s", interval, epoch, now, s.from, s.to, s.missing(now))
		}
	})
}
