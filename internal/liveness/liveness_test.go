package liveness

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDeadlines(t *testing.T) {
	seen := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		interval         time.Duration
		missed           int
		refresh, offline time.Duration
	}{
		{5 * time.Minute, 3, 5 * time.Minute, 20 * time.Minute},
		{15 * time.Second, 3, 15 * time.Second, time.Minute},
		{time.Second, 1, time.Second / 3, time.Second + time.Second/3},
		{24 * time.Hour, 10, 80 * time.Hour, 320 * time.Hour},
	} {
		if got := RefreshAfter(c.interval, c.missed); got != c.refresh {
			t.Errorf("RefreshAfter(%s, %d) = %s, want %s", c.interval, c.missed, got, c.refresh)
		}
		if got := OfflineAt(seen, c.interval, c.missed).Sub(seen); got != c.offline {
			t.Errorf("OfflineAt(_, %s, %d) is %s after the last contact, want %s", c.interval, c.missed, got, c.offline)
		}
	}
}

// An endpoint that beats in time is never offline, and one that stops is offline no sooner than missed × interval after its last beat and
// no later than 4/3 of that, whatever the phase of its beats: though only some of them are written.
func TestOfflineOnlyAfterSilence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := time.Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(t, "interval"))
		missed := rapid.IntRange(2, 100).Draw(t, "missed")
		start := time.Unix(1_700_000_000, 0)
		written, last := start, start
		for range rapid.IntRange(1, 50).Draw(t, "beats") {
			// An agent beats at its interval ± 10 %; up to missed−1 beats in a row may be lost.
			gap := time.Duration(rapid.Float64Range(0.9, 1.1).Draw(t, "jitter") * float64(interval))
			gap += time.Duration(rapid.IntRange(0, missed-2).Draw(t, "lost")) * interval
			now := last.Add(gap)
			if !now.Before(OfflineAt(written, interval, missed)) {
				t.Fatalf("offline while it beats: last beat %s ago", gap)
			}
			last = now
			if now.Sub(written) >= RefreshAfter(interval, missed) {
				written = now
			}
		}
		silent := OfflineAt(written, interval, missed).Sub(last)
		if span := time.Duration(missed) * interval; silent < span-2 || silent > span+span/3 {
			t.Fatalf("offline after %s of silence, want between %s and %s", silent, span, span+span/3)
		}
	})
}
