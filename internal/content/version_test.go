package content

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestVersions(t *testing.T) {
	ascending := []string{"0", "1", "2", "2.0.0.1", "2.9", "2.10", "9", "10", "1042", "2026.11.30", "999999999", "999999999.999999999.999999999.999999999"}
	for i, s := range ascending {
		v, err := ParseVersion(s)
		if err != nil {
			t.Fatal(err)
		}
		for j, other := range ascending {
			w, err := ParseVersion(other)
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Compare(w); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s against %s: %d", s, other, got)
			}
		}
	}
	for _, same := range [][2]string{{"2", "2.0"}, {"2.0", "2.0.0.0"}, {"007", "7"}} {
		v, _ := ParseVersion(same[0])
		if w, err := ParseVersion(same[1]); err != nil || v.Compare(w) != 0 {
			t.Errorf("%v: not the same", same)
		}
	}
	for _, wrong := range []string{"", ".", "1.", ".1", "1..2", "1.2.3.4.5", "v1", "1-2", "+1", "-1", "1 ", "1e3", "1234567890", "٣", strings.Repeat("1", 40)} {
		if v, err := ParseVersion(wrong); err == nil {
			t.Errorf("%q is taken for %v", wrong, v)
		}
	}
}

func TestShares(t *testing.T) {
	const release, all = "0b5bd0a4-34f9-4f8f-8a5b-7c3b3a2d8f01", 20_000
	identities := make([]string, all)
	for i := range identities {
		identities[i] = fmt.Sprintf("00000000-0000-4000-8000-%012x", i)
	}
	before := map[string]bool{}
	for _, share := range []uint32{0, 1, 100, 1000, 5000, 9999, Everybody} {
		now := map[string]bool{}
		for _, id := range identities {
			if InShare(release, id, share) {
				now[id] = true
			} else if before[id] {
				t.Errorf("%s is in no more at %d", id, share)
			}
		}
		if want := all * int(share) / Everybody; len(now) < want*9/10-10 || len(now) > want*11/10+10 {
			t.Errorf("at %d of 10,000 %d of %d are in", share, len(now), all)
		}
		before = now
	}
	first := func(uid string) int {
		return slices.IndexFunc(identities, func(id string) bool { return InShare(uid, id, 100) })
	}
	if first(release) == first("7c3b3a2d-34f9-4f8f-8a5b-0b5bd0a48f01") {
		t.Error("the same endpoints go first with every release")
	}
}
