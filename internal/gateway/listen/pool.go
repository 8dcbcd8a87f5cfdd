package listen

import (
	"container/heap"
	"sync"
	"time"
)

// pool bounds how many connections are in one state at a time, and is fair about it. When it is full, a newcomer is let in if somebody has
// more places than it, or a client that has kept us waiting; of whoever has the most that connection goes which has been silent for longest.
// So an address that floods takes places from itself and from nobody else, behind one address those who answer at once outlast those who
// keep us waiting, and nobody queues. The zero pool is not usable; see newPool.
type pool[K comparable] struct {
	mu      sync.Mutex
	max     int // of all
	each    int // of one holder
	settled bool
	n       int
	holders map[K]*holder[K]
	byCount holderHeap[K]
}

// holder is who holds places: oldest first in a list.
type holder[K comparable] struct {
	key          K
	n, index     int
	oldest, last *place[K]
}

// place of one connection. It is left once; leaving again does nothing.
type place[K comparable] struct {
	pool   *pool[K]
	holder *holder[K] // nil once left
	older  *place[K]
	newer  *place[K]
	silent func() time.Duration
	evict  func()
}

// patience is how long a client may be silent before its place can go to a newcomer of the same address: some round trips by satellite, and what
// a busy machine takes to notice that it has spoken. With less, agents that all come at once displace each other half done, and most come again.
// It also bounds what one address can make us compute: a full pool in this time.
const patience = time.Second

// mostSilent is the place whose client has been silent for longest, and the oldest of those that are equal.
func (h *holder[K]) mostSilent() (out *place[K], silence time.Duration) {
	silence = -1
	for at := h.oldest; at != nil; at = at.newer {
		if d := at.silent(); d > silence {
			out, silence = at, d
		}
	}
	return out, silence
}

// settle makes a newcomer displace nobody who was not silent and has no more places than it: for connections that are to stay, of which a
// full pool would otherwise displace one for each that comes, which comes again. (Handshakes are displaced half done, before they cost more.)
func (p *pool[K]) settle() *pool[K] {
	p.settled = true
	return p
}

// newPool has limit places, of which one holder may have each.
func newPool[K comparable](limit, each int) *pool[K] {
	return &pool[K]{max: limit, each: each, holders: map[K]*holder[K]{}}
}

// enter takes a place for a connection of key. silent tells how long its client has owed us bytes. evict is called, at most once and perhaps
// before enter returns, when the place is given to another.
func (p *pool[K]) enter(key K, silent func() time.Duration, evict func()) *place[K] {
	p.mu.Lock()
	h := p.holders[key]
	if h == nil {
		h = &holder[K]{key: key}
		p.holders[key] = h
		heap.Push(&p.byCount, h)
	}
	at := &place[K]{pool: p, holder: h, older: h.last, silent: silent, evict: evict}
	if h.last != nil {
		h.last.newer = at
	} else {
		h.oldest = at
	}
	h.last = at
	h.n++
	p.n++
	heap.Fix(&p.byCount, h.index)
	out := p.surplus(h, at)
	if out != nil {
		out.remove()
	}
	p.mu.Unlock()
	if out != nil {
		out.evict()
	}
	return at
}

// surplus is the place that has to go after h took one more, if any has.
func (p *pool[K]) surplus(h *holder[K], newcomer *place[K]) *place[K] {
	from := p.byCount[0]
	switch {
	case h.n > p.each:
		from = h
	case p.n <= p.max:
		return nil
	}
	out, silence := from.mostSilent()
	among := from == h || p.settled && from.n <= h.n
	if !among || silence >= patience {
		return out
	}
	if own, silence := h.mostSilent(); silence >= patience {
		return own
	}
	return newcomer
}

func (p *pool[K]) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// leave gives the place back. It tells whether the place was still held, that is, whether it had not been given to another.
func (at *place[K]) leave() bool {
	at.pool.mu.Lock()
	defer at.pool.mu.Unlock()
	held := at.holder != nil
	if held {
		at.remove()
	}
	return held
}

// remove takes the place out, under the pool's lock.
func (at *place[K]) remove() {
	p, h := at.pool, at.holder
	if at.older != nil {
		at.older.newer = at.newer
	} else {
		h.oldest = at.newer
	}
	if at.newer != nil {
		at.newer.older = at.older
	} else {
		h.last = at.older
	}
	at.holder, at.older, at.newer = nil, nil, nil
	h.n--
	p.n--
	if h.n == 0 {
		heap.Remove(&p.byCount, h.index)
		delete(p.holders, h.key)
		return
	}
	heap.Fix(&p.byCount, h.index)
}

// holderHeap has the holder with the most places first.
type holderHeap[K comparable] []*holder[K]

func (h holderHeap[K]) Len() int           { return len(h) }
func (h holderHeap[K]) Less(i, j int) bool { return h[i].n > h[j].n }
func (h holderHeap[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *holderHeap[K]) Push(x any) {
	one, _ := x.(*holder[K]) // container/heap hands back what enter gave it
	one.index = len(*h)
	*h = append(*h, one)
}

func (h *holderHeap[K]) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	return last
}
