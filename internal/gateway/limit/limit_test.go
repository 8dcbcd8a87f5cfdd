package limit

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// In any stretch of time at most Burst plus one for each Every may happen, and who waits as long as told may.
func TestRateHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{Every: time.Duration(rapid.IntRange(1, 1000).Draw(t, "every")) * time.Millisecond, Burst: rapid.IntRange(1, 5).Draw(t, "burst")}
		var s State
		now := time.Unix(1_800_000_000, 0)
		var taken []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "tries") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "pause")) * time.Millisecond)
			wait, ok := s.Take(r, now)
			if !ok {
				later := s
				if _, ok := later.Take(r, now.Add(wait)); !ok {
					t.Fatalf("refused after waiting for %s as told", wait)
				}
				early := s
				if _, ok := early.Take(r, now.Add(wait-1)); ok {
					t.Fatalf("told to wait for %s, but it was possible before", wait)
				}
				continue
			}
			taken = append(taken, now)
			for i, from := range taken {
				if n, most := len(taken)-i, r.Burst+int(now.Sub(from)/r.Every); n > most {
					t.Fatalf("%d in %s, at most %d", n, now.Sub(from), most)
				}
			}
		}
	})
}

func TestKeysAreApartAndFew(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := New[int](PerSecond(1, 1), 100)
	for k := range 100 {
		if _, ok := l.Take(k, now); !ok {
			t.Fatalf("key %d was limited by others", k)
		}
		if wait, ok := l.Take(k, now); ok || wait != time.Second {
			t.Fatalf("key %d was not limited: %s, %v", k, wait, ok)
		}
	}
	for k := range 10_000 {
		l.Take(1000+k, now)
	}
	if len(l.states) > 100 {
		t.Errorf("%d keys are remembered, at most 100", len(l.states))
	}
	l.Take(-1, now.Add(time.Hour))
	if len(l.states) != 1 {
		t.Errorf("%d keys are remembered though all but one are rested", len(l.states))
	}
}

func TestClient(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2::9": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := Client(netip.MustParseAddr(from)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", from, got, want)
		}
	}
	if Client(netip.Addr{}) != (netip.Addr{}) {
		t.Error("no address counts as one")
	}
}
