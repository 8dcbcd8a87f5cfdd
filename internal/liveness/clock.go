package liveness

import "time"

// HintWindow is how far an unsigned server_time may move an agent's time ahead of the signed one.
const HintWindow = 5 * time.Minute

// Reading is what a machine's own clocks say at one moment. Only their differences are believed.
type Reading struct {
	// Wall is the clock that people set.
	Wall time.Time
	// Boot is the time since boot, sleep included (CLOCK_BOOTTIME).
	Boot time.Duration
	// Awake is a time that stands still while the machine sleeps, as timers do (CLOCK_MONOTONIC). Where a system has none, it never does.
	Awake time.Duration
}

// Asleep is how long the machine slept between an earlier reading and r.
func (r Reading) Asleep(earlier Reading) time.Duration {
	return max(0, (r.Boot-earlier.Boot)-(r.Awake-earlier.Awake))
}

// Clock is an agent's time: what signed orders say, carried on by the time since boot, so that neither the machine's wall clock nor
// whoever sits between can make an expired order run. It only computes; whoever owns it persists Floor and Skew. Not for concurrent use.
type Clock struct {
	floor time.Time
	skew  time.Duration

	beacon   mark
	hint     mark
	anchored bool
}

// mark is a time that was told, and the time since boot when it was.
type mark struct {
	told time.Time
	at   time.Duration
}

func (m mark) now(boot time.Duration) time.Time { return m.told.Add(max(0, boot-m.at)) }

// NewClock starts from what was persisted: the time floor and the last measured skew, both zero on a new machine.
func NewClock(floor time.Time, skew time.Duration) *Clock { return &Clock{floor: floor, skew: skew} }

// Order raises the floor to the issued_at of a verified order, as Pass raises it with time. Nothing lowers it but ResetFloor.
func (c *Clock) Order(issuedAt time.Time) {
	if issuedAt.After(c.floor) {
		c.floor = issuedAt
	}
}

// Beacon takes the issued_at of a verified beacon. An older one than the newest, or the same again, changes nothing: its time would have
// stood still meanwhile.
func (c *Clock) Beacon(issuedAt time.Time, r Reading) {
	if c.anchored && !issuedAt.After(c.beacon.told) {
		return
	}
	c.beacon, c.anchored = mark{issuedAt, r.Boot}, true
	c.Order(issuedAt)
}

// Pass raises the floor to the signed time of now. Else whoever holds beacons back and shows the last one again would have time stand still for an
// agent that starts again, and its orders good for as long.
func (c *Clock) Pass(r Reading) {
	if c.anchored {
		c.Order(c.SignedNow(r))
	}
}

// Hint takes an unsigned server_time: good for up to HintWindow ahead of the signed time, and for nothing behind it. It measures the skew.
func (c *Clock) Hint(serverTime time.Time, r Reading) {
	c.hint = mark{serverTime, r.Boot}
	if c.anchored {
		c.skew = r.Wall.Sub(c.Now(r))
	}
}

// ResetFloor repairs what a manager's clock that ran ahead has done: the floor becomes to, and the next beacon is believed whatever the
// last one said.
func (c *Clock) ResetFloor(to time.Time) {
	c.floor = to
	c.beacon, c.hint, c.anchored = mark{}, mark{}, false
}

// Anchored tells whether a beacon came since the start. Without one Now is an estimate, and nothing that expires may be started.
func (c *Clock) Anchored() bool { return c.anchored }

// SignedNow is the newest beacon's time plus what has passed since it came; before the first beacon the corrected wall clock. Never below
// the floor.
func (c *Clock) SignedNow(r Reading) time.Time {
	now := r.Wall.Add(-c.skew)
	if c.anchored {
		now = c.beacon.now(r.Boot)
	}
	if now.Before(c.floor) {
		return c.floor
	}
	return now
}

// Now is the time to judge by: the server's, within [SignedNow, SignedNow + HintWindow].
func (c *Clock) Now(r Reading) time.Time {
	signed := c.SignedNow(r)
	if !c.anchored || c.hint.told.IsZero() {
		return signed
	}
	hinted := c.hint.now(r.Boot)
	if latest := signed.Add(HintWindow); hinted.After(latest) {
		return latest
	}
	if hinted.Before(signed) {
		return signed
	}
	return hinted
}

// Floor is what to persist: the latest issued_at of a verified order, or the signed time when Pass was called last.
func (c *Clock) Floor() time.Time { return c.floor }

// Skew is the wall clock minus the time, as last measured.
func (c *Clock) Skew() time.Duration { return c.skew }

// BeaconAge is how old the newest beacon is by now; ok is false before the first.
func (c *Clock) BeaconAge(r Reading) (age time.Duration, ok bool) {
	if !c.anchored {
		return 0, false
	}
	return c.Now(r).Sub(c.beacon.told), true
}
