// Package content has what manager, gateways and agents decide alike about releases of content: which of two versions is newer, who is in a
// share of the fleet, whether an offer may be obeyed, and what a bundle of content may say. It is pure.
package content

import (
	"cmp"
	"errors"
	"strconv"
	"strings"
)

// MaxVersion is the longest version, in bytes.
const MaxVersion = 39

var errVersion = errors.New("a version is one to four numbers of at most nine digits, joined by points, such as 1042 or 2.10")

// Version orders releases number by number. Its zero value is older than every version that parses, but for those of zeros alone, which it
// equals.
type Version [4]uint32

// ParseVersion reads a version as people write it, for instance 1042 or 2.10.1.
func ParseVersion(s string) (v Version, err error) {
	numbers := strings.Split(s, ".")
	if len(s) > MaxVersion || len(numbers) > len(v) {
		return Version{}, errVersion
	}
	for i, text := range numbers {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || len(text) > 9 || text[0] == '+' {
			return Version{}, errVersion
		}
		v[i] = uint32(n)
	}
	return v, nil
}

// Compare is negative where v is older than w, positive where it is newer, and 0 where they are the same: 2.9 < 2.10, 2 = 2.0.
func (v Version) Compare(w Version) int {
	for i := range v {
		if c := cmp.Compare(v[i], w[i]); c != 0 {
			return c
		}
	}
	return 0
}
