// Package stats is the arithmetic of the bench.
package stats

import (
	"cmp"
	"math"
	"slices"
)

// Number is what can be measured.
type Number interface{ ~int | ~int64 | ~float64 }

// Quantile of what is sorted already: the smallest value that a share q of all does not exceed. Nothing has the quantile 0.
func Quantile[N Number](sorted []N, q float64) N {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// Median of values in any order; of an even number of them, the mean of the two in the middle.
func Median[N Number](values []N) N {
	if len(values) == 0 {
		return 0
	}
	s := slices.Clone(values)
	slices.SortFunc(s, cmp.Compare[N])
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// Spread is how far values are from their median, half of them at most, as a share of it.
func Spread(values []float64) float64 {
	m := Median(values)
	if m == 0 {
		return 0
	}
	off := make([]float64, len(values))
	for i, v := range values {
		off[i] = math.Abs(v - m)
	}
	return Median(off) / math.Abs(m)
}
