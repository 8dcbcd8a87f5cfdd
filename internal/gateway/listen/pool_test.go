package listen

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever comes and goes: the bound holds, nobody is pushed out while somebody has more, of whoever has the most it is the one that was
// silent for longest, and a newcomer pushes out nobody of its own address who was not silent; where they are settled, nobody at
// all who was not and has no more than it.
func TestPoolIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		p := newPool[int](limit, limit)
		settled := rapid.Bool().Draw(t, "settled")
		if settled {
			p.settle()
		}
		type held struct {
			key     int
			silence time.Duration
			at      *place[int]
			out     bool
		}
		var all []*held // oldest first
		count := func(key int) (n int) {
			for _, h := range all {
				if h.key == key {
					n++
				}
			}
			return n
		}
		forget := func(i int) { all = append(all[:i:i], all[i+1:]...) }
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				h := &held{key: rapid.IntRange(0, 4).Draw(t, "key"), silence: rapid.SampledFrom([]time.Duration{0, patience - 1, patience, 2 * patience}).Draw(t, "silence")}
				all = append(all, h)
				h.at = p.enter(h.key, func() time.Duration { return h.silence }, func() { h.out = true })
				gone := -1
				for i, h := range all {
					if h.out && gone >= 0 {
						t.Fatal("two had to go for one")
					}
					if h.out {
						gone = i
					}
				}
				if (gone >= 0) != (len(all) > limit) {
					t.Fatalf("%d places of %d: one had to go: %v", len(all), limit, gone >= 0)
				}
				if gone < 0 {
					return
				}
				loser := all[gone]
				for i, other := range all {
					if count(other.key) > count(loser.key) {
						t.Fatalf("%d had to go with %d places while %d has %d", loser.key, count(loser.key), other.key, count(other.key))
					}
					if other.key != loser.key {
						continue
					}
					longer := other.silence > loser.silence || other.silence == loser.silence && i < gone
					if loser != h && longer {
						t.Fatalf("one that was silent for %s had to go before one for %s", loser.silence, other.silence)
					}
					if loser == h && longer && other.silence >= patience {
						t.Fatalf("a newcomer was refused for one that was silent for %s", other.silence)
					}
				}
				if loser != h && (loser.key == h.key || settled && count(loser.key) <= count(h.key)) && loser.silence < patience {
					t.Fatalf("one of %d that was silent for %s had to go for a newcomer of %d", count(loser.key), loser.silence, count(h.key))
				}
				forget(gone)
			},
			"leave": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("nobody is there")
				}
				i := rapid.IntRange(0, len(all)-1).Draw(t, "who")
				if !all[i].at.leave() || all[i].at.leave() {
					t.Fatal("a place is left exactly once")
				}
				forget(i)
			},
			"": func(t *rapid.T) {
				if p.count() != len(all) || p.count() > limit {
					t.Fatalf("count %d, held %d, bound %d", p.count(), len(all), limit)
				}
			},
		})
	})
}

func TestOneHolderHasSoManyPlaces(t *testing.T) {
	p := newPool[string](100, 3)
	var gone []int
	for i, silence := range []time.Duration{0, 2 * patience, 0, 0, 0} {
		p.enter("a", func() time.Duration { return silence }, func() { gone = append(gone, i) })
		p.enter("b", func() time.Duration { return time.Hour }, func() {}).leave()
	}
	if len(gone) != 2 || gone[0] != 1 || gone[1] != 4 || p.count() != 3 { // first who keeps us waiting, then the newcomer
		t.Errorf("gone: %v, %d are left", gone, p.count())
	}
}
