// Package liveness has the arithmetic of who is there and what time it is. It is pure: no I/O, no clock of its own, times are passed in.
// Manager and gateway compute an endpoint's deadline with it, the agent its signed time.
package liveness

import "time"

// OfflineAt is when an endpoint whose last written contact was at lastSeen counts as offline: 4/3 × missed × interval later.
//
// The third on top pays for what is not written: a heartbeat refreshes lastSeen only when it is older than RefreshAfter, so the newest
// contact may be that much younger than the record says. An endpoint is therefore never offline before it was silent for missed × interval.
func OfflineAt(lastSeen time.Time, interval time.Duration, missed int) time.Time {
	silence := silence(interval, missed)
	return lastSeen.Add(silence + RefreshAfter(interval, missed))
}

// RefreshAfter is the age from which a heartbeat writes an endpoint's lastSeen anew: a third of missed × interval. Younger ones cost no write.
func RefreshAfter(interval time.Duration, missed int) time.Duration {
	return silence(interval, missed) / 3
}

// silence is missed × interval. The API bounds both (24 h, 100), far from what a Duration can hold.
func silence(interval time.Duration, missed int) time.Duration {
	return time.Duration(missed) * interval
}
