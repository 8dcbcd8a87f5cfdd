package stats

import (
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for q, want := range map[float64]int{0: 1, 0.01: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := Quantile(hundred, q); got != want {
			t.Errorf("of 1 to 100 the quantile %g is %d, want %d", q, got, want)
		}
	}
	if got := Quantile([]int(nil), 0.99); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
	if got := Quantile([]int{7}, 0.99); got != 7 {
		t.Errorf("of one: %d", got)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := Median(c.of); got != c.want {
			t.Errorf("of %v: %g, want %g", c.of, got, c.want)
		}
	}
	order := []float64{9, 1, 2}
	Median(order)
	if order[0] != 9 {
		t.Error("the caller's values were sorted")
	}
}

func TestSpread(t *testing.T) {
	if got := Spread([]float64{90, 100, 110, 100, 100}); got != 0 {
		t.Errorf("most are the median: %g", got)
	}
	if got := Spread([]float64{80, 90, 100, 110, 1000}); math.Abs(got-0.1) > 1e-9 {
		t.Errorf("one far off does not count: %g", got)
	}
	if got := Spread(nil); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
}
