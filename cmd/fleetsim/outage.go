package main

import (
	"fmt"
	"time"
)

// maxOutages is how many are kept.
const maxOutages = 100

// outage is a time at which at least a tenth of the websockets were gone at once.
type outage struct {
	Began time.Time `json:"began"`
	// Connected is how many were left at the least.
	Connected int `json:"connected"`
	// BackSeconds is how long it took until all were back, -1 if they are not.
	BackSeconds float64 `json:"backSeconds"`
}

// outages are found by looking again and again.
type outages struct {
	all  []outage
	full bool      // all were connected at the last look, or are still out
	lost time.Time // since when not all are connected; zero while all are
}

// observe looks: connected is how many there are of those that want to be. When all are back it says so in a line.
func (o *outages) observe(now time.Time, connected, wanting int) string {
	var open *outage
	if n := len(o.all); n > 0 && o.all[n-1].BackSeconds < 0 {
		open = &o.all[n-1]
	}
	switch {
	case wanting == 0:
		return ""
	case connected >= wanting:
		o.full, o.lost = true, time.Time{}
		if open == nil {
			return ""
		}
		open.BackSeconds = now.Sub(open.Began).Round(time.Millisecond).Seconds()
		return fmt.Sprintf("all %d are back %s after the first was lost; %d were connected at the least", connected, now.Sub(open.Began).Round(100*time.Millisecond), open.Connected)
	case !o.full:
		return ""
	}
	if o.lost.IsZero() {
		o.lost = now
	}
	switch {
	case open != nil:
		open.Connected = min(open.Connected, connected)
	case wanting-connected >= max(1, wanting/10) && len(o.all) < maxOutages:
		o.all = append(o.all, outage{Began: o.lost, Connected: connected, BackSeconds: -1})
	}
	return ""
}
