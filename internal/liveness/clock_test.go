package liveness

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// at is a machine whose wall clock is ahead of the true time by skew, d after noon, booted an hour before noon.
func at(d, skew time.Duration) Reading { return Reading{Wall: noon.Add(d + skew), Boot: time.Hour + d} }

func TestClock(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, c := range []struct {
		name  string
		floor time.Time
		skew  time.Duration
		do    func(*Clock)
		read  Reading
		now   time.Duration // after noon
	}{
		{"a new machine believes its wall clock", time.Time{}, 0, func(*Clock) {}, at(0, time.Second), time.Second},
		{"after a reboot the wall clock is corrected by the last skew", noon.Add(-time.Hour), time.Minute, func(*Clock) {}, at(0, time.Minute), 0},
		{"a wall clock behind the floor is not believed", noon, 0, func(*Clock) {}, at(0, -year), 0},
		{"a beacon beats any wall clock", time.Time{}, 0, func(c *Clock) { c.Beacon(noon, at(0, -year)) }, at(time.Minute, 10*year), time.Minute},
		{
			"an older beacon changes nothing",
			time.Time{},
			0,
			func(c *Clock) { c.Beacon(noon, at(0, 0)); c.Beacon(noon.Add(-time.Hour), at(time.Minute, 0)) }, at(2*time.Minute, 0), 2 * time.Minute,
		},
		{
			"the same beacon again does not stop time",
			time.Time{},
			0,
			func(c *Clock) { c.Beacon(noon, at(0, 0)); c.Beacon(noon, at(9*time.Minute, 0)) }, at(10*time.Minute, 0), 10 * time.Minute,
		},
		{
			"a late beacon does not move the floor back",
			time.Time{},
			0,
			func(c *Clock) { c.Order(noon.Add(time.Hour)); c.Beacon(noon, at(0, 0)) }, at(time.Minute, 0), time.Hour,
		},
		{
			"the server's time counts within the window",
			time.Time{},
			0,
			func(c *Clock) { c.Beacon(noon, at(time.Minute, 0)); c.Hint(noon.Add(time.Minute), at(time.Minute, 0)) }, at(2*time.Minute, 0), 2 * time.Minute,
		},
		{
			"a server far ahead is held at the window",
			time.Time{},
			0,
			func(c *Clock) { c.Beacon(noon, at(0, 0)); c.Hint(noon.Add(year), at(0, 0)) }, at(0, 0), HintWindow,
		},
		{
			"a server far behind is held at the signed time",
			time.Time{},
			0,
			func(c *Clock) { c.Beacon(noon, at(0, 0)); c.Hint(noon.Add(-year), at(0, 0)) }, at(time.Second, 0), time.Second,
		},
		{"a hint without any beacon moves nothing", noon, 0, func(c *Clock) { c.Hint(noon.Add(year), at(0, 0)) }, at(0, 0), 0},
		{
			"a reset lowers the floor and believes the next beacon", noon.Add(year), 0,
			func(c *Clock) { c.Beacon(noon.Add(year), at(0, 0)); c.ResetFloor(noon); c.Beacon(noon, at(0, 0)) }, at(time.Second, 0), time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := NewClock(c.floor, c.skew)
			c.do(clock)
			if got := clock.Now(c.read).Sub(noon); got != c.now {
				t.Errorf("now is noon %+v, want noon %+v", got, c.now)
			}
		})
	}
}

func TestClockMeasuresSkew(t *testing.T) {
	c := NewClock(time.Time{}, 0)
	c.Beacon(noon.Add(-30*time.Second), at(0, 7*time.Minute))
	c.Hint(noon, at(0, 7*time.Minute))
	if c.Skew() != 7*time.Minute {
		t.Errorf("skew %s, want 7m", c.Skew())
	}
	if age, ok := c.BeaconAge(at(0, 7*time.Minute)); !ok || age != 30*time.Second {
		t.Errorf("beacon age %s, %t, want 30s", age, ok)
	}
	// After a reboot with the same wrong clock, and no beacon yet, the time is still right.
	again := NewClock(c.Floor(), c.Skew())
	if got := again.Now(Reading{Wall: noon.Add(time.Hour + 7*time.Minute)}).Sub(noon); got != time.Hour {
		t.Errorf("after the reboot it is noon %+v, want noon +1h", got)
	}
	if _, ok := again.BeaconAge(Reading{}); ok || again.Anchored() {
		t.Error("a beacon of before the reboot anchors nothing")
	}
}

// A beacon that is held back and shown again after a restart makes no time of what has passed.
func TestClockPasses(t *testing.T) {
	c := NewClock(time.Time{}, 0)
	c.Pass(at(0, 0))
	if !c.Floor().IsZero() {
		t.Errorf("without a beacon, time has passed to %s", c.Floor())
	}
	c.Beacon(noon, at(0, 0))
	c.Pass(at(time.Hour, 0))
	again := NewClock(c.Floor(), 0)
	again.Beacon(noon, at(time.Hour, 0))
	if got := again.Now(at(time.Hour, 0)).Sub(noon); got != time.Hour {
		t.Errorf("after the restart it is noon %+v, want noon +1h", got)
	}
}

// Whatever comes in whatever order, the floor never falls and Now is never behind it, nor ahead of the newest signed time by more than what
// really passed and the window.
func TestClockNeverRunsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewClock(noon, 0)
		boot, floor, newest := time.Hour, noon, noon
		moment := rapid.Int64Range(-int64(48*time.Hour), int64(48*time.Hour))
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			boot += time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "passed"))
			when := noon.Add(time.Duration(moment.Draw(t, "when")))
			r := Reading{Wall: noon.Add(time.Duration(moment.Draw(t, "wall"))), Boot: boot}
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				c.Beacon(when, r)
			case 1:
				c.Order(when)
			case 2:
				c.Hint(when, r)
				continue
			case 3:
				c.Pass(r)
				when = newest
			}
			if when.After(newest) {
				newest = when
			}
			if c.Floor().Before(floor) {
				t.Fatalf("the floor fell from %s to %s", floor, c.Floor())
			}
			floor = c.Floor()
			if now := c.Now(r); now.Before(floor) {
				t.Fatalf("now %s is behind the floor %s", now, floor)
			} else if c.Anchored() && now.After(newest.Add(boot-time.Hour+HintWindow)) {
				t.Fatalf("now %s is ahead of all that was signed (%s)", now, newest)
			}
		}
	})
}

// Sleep is what the time since boot has more than the time awake; whichever was read first, it is never less than nothing.
func TestAsleep(t *testing.T) {
	before := Reading{Boot: time.Hour, Awake: time.Minute}
	for slept, after := range map[time.Duration]Reading{
		0:           {Boot: time.Hour + time.Second, Awake: time.Minute + time.Second},
		time.Minute: {Boot: time.Hour + 2*time.Minute, Awake: 2 * time.Minute},
	} {
		if got := after.Asleep(before); got != slept {
			t.Errorf("asleep for %s, want %s", got, slept)
		}
	}
	if got := (Reading{Boot: time.Hour, Awake: time.Minute + time.Millisecond}).Asleep(before); got != 0 {
		t.Errorf("asleep for %s", got)
	}
}
