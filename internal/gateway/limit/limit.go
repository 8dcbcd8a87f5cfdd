// Package limit decides whether something may happen again already. It starts nothing and reads no clock: times are passed in.
package limit

import (
	"net/netip"
	"sync"
	"time"
)

// Rate is how often something may happen: once every Every, and Burst times at once after a rest.
type Rate struct {
	Every time.Duration
	Burst int
}

// PerSecond is a rate of n times a second, and burst at once. n must be above 0.
func PerSecond(n float64, burst int) Rate {
	return Rate{Every: time.Duration(float64(time.Second) / n), Burst: max(burst, 1)}
}

// State of one thing that is limited; the zero State is rested. It is the theoretical arrival time of the generic cell rate algorithm
// (ITU-T I.371): eight bytes do what a token bucket does.
type State int64

// Take counts one more at now, or tells how long to wait for it.
func (s *State) Take(r Rate, now time.Time) (wait time.Duration, ok bool) {
	next := max(int64(*s), now.UnixNano())
	if ahead := time.Duration(next - now.UnixNano()); ahead > time.Duration(r.Burst-1)*r.Every {
		return ahead - time.Duration(r.Burst-1)*r.Every, false
	}
	*s = State(next + int64(r.Every))
	return 0, true
}

// Keyed limits each of many things, of which it remembers so many. Use New.
type Keyed[K comparable] struct {
	rate Rate
	most int

	mu     sync.Mutex
	states map[K]*State
	swept  time.Time
}

// New limits each key to a rate. When more than most keys are not rested, some are forgotten, and begin anew.
func New[K comparable](rate Rate, most int) *Keyed[K] {
	return &Keyed[K]{rate: rate, most: most, states: map[K]*State{}}
}

// Take counts one more of key at now, or tells how long to wait for it.
func (l *Keyed[K]) Take(key K, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.states[key]
	if s == nil {
		l.makeRoom(now)
		s = new(State)
		l.states[key] = s
	}
	return s.Take(l.rate, now)
}

// makeRoom forgets those that are rested, at most once a second, and otherwise anyone.
func (l *Keyed[K]) makeRoom(now time.Time) {
	if len(l.states) < l.most {
		return
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, s := range l.states {
			if int64(*s) <= now.UnixNano() {
				delete(l.states, k)
			}
		}
	}
	for k := range l.states {
		if len(l.states) < l.most {
			return
		}
		delete(l.states, k)
	}
}

// Client is whom an address counts as: an IPv6 client has a /64 to itself.
func Client(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}
