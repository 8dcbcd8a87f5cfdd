package limit

import (
	"math/rand/v2"
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

// A storm is let in at the rate, and who is sent away gets a turn: those who keep to theirs are all let in.
func TestStormBecomesAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.IntRange(1, 500).Draw(t, "rate")
		rate := PerSecond(float64(perSecond), perSecond)
		storm := rapid.IntRange(1, 500).Draw(t, "agents")
		now := time.Unix(1_800_000_000, 0)
		var q Queue
		waiting := map[time.Time]int{now: storm}
		in, tries := 0, 0
		for at := now; len(waiting) > 0; at = at.Add(time.Millisecond) {
			for n := waiting[at]; n > 0; n-- {
				tries++
				wait, ok := q.Take(rate, at)
				if ok {
					in++
					continue
				}
				if wait < minTurn || wait > maxTurn {
					t.Fatalf("told to come again after %s", wait)
				}
				seconds := (wait + time.Second - 1) / time.Second // on the wire
				waiting[at.Add(seconds*time.Second+time.Duration(rand.N(300))*time.Millisecond)]++
			}
			delete(waiting, at)
			if most := int(at.Sub(now)/rate.Every) + rate.Burst; in > most {
				t.Fatalf("%d are in, of %d", in, most)
			}
		}
		if in != storm {
			t.Fatalf("%d of %d are in", in, storm)
		}
		if most := 3 * storm; tries > most && time.Duration(storm)*rate.Every < maxTurn {
			t.Fatalf("%d tries of %d agents", tries, storm)
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
	if len(l.queues) > 100 {
		t.Errorf("%d keys are remembered, at most 100", len(l.queues))
	}
	l.Take(-1, now.Add(time.Hour))
	if len(l.queues) != 1 {
		t.Errorf("%d keys are remembered though all but one are rested", len(l.queues))
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
