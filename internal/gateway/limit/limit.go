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

// Turns are a second away at least, because agents are told whole seconds, and at most maxTurn.
const (
	minTurn = time.Second
	maxTurn = time.Minute
)

// Queue limits what happens, and gives each whom it turns away a turn of its own, at the same rate: a storm comes back as a queue. The zero Queue
// is rested. A turn is no promise: whoever comes in between takes a place, and who then finds none is told another turn.
type Queue struct {
	state State
	turn  int64 // the next to be given
}

// Take counts one more at now, or tells when its turn is.
func (q *Queue) Take(r Rate, now time.Time) (wait time.Duration, ok bool) {
	wait, ok = q.state.Take(r, now)
	if ok {
		return 0, true
	}
	return q.Turn(r, max(wait, minTurn), now), false
}

// Turn is the wait until the next turn, no sooner than soonest.
func (q *Queue) Turn(r Rate, soonest time.Duration, now time.Time) time.Duration {
	at := min(max(q.turn, now.Add(soonest).UnixNano()), now.Add(maxTurn).UnixNano())
	q.turn = at + int64(r.Every)
	return time.Duration(at - now.UnixNano())
}

// Keyed limits each of many things, of which it remembers so many. Use New.
type Keyed[K comparable] struct {
	rate Rate
	most int

	mu     sync.Mutex
	queues map[K]*Queue
	swept  time.Time
}

// New limits each key to a rate. When more than most keys are not rested, some are forgotten, and begin anew.
func New[K comparable](rate Rate, most int) *Keyed[K] {
	return &Keyed[K]{rate: rate, most: most, queues: map[K]*Queue{}}
}

// Take counts one more of key at now, or tells when its turn is; see Queue.
func (l *Keyed[K]) Take(key K, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[key]
	if q == nil {
		l.makeRoom(now)
		q = new(Queue)
		l.queues[key] = q
	}
	return q.Take(l.rate, now)
}

// makeRoom forgets those that are rested, at most once a second, and otherwise anyone.
func (l *Keyed[K]) makeRoom(now time.Time) {
	if len(l.queues) < l.most {
		return
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, q := range l.queues {
			if int64(q.state) <= now.UnixNano() {
				delete(l.queues, k)
			}
		}
	}
	for k := range l.queues {
		if len(l.queues) < l.most {
			return
		}
		delete(l.queues, k)
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
