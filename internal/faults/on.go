//go:build faults

package faults

import (
	"encoding/json"
	"os"
	"time"

	"github.com/spf13/pflag"
)

// look is how often a program that is held looks whether it is released.
const look = 5 * time.Millisecond

// orders is the file that they come in.
var orders string

// AddFlags lets a test say where its orders are.
func AddFlags(f *pflag.FlagSet) {
	f.StringVar(&orders, "fault-file", "", "file that names a point at which to end as by kill -9, or to be held")
}

// Before is the moment before something is done for an action; a write of a row of the table, for instance.
func Before[What any](what What, of string) { reach(Point(WhenBefore, what), of) }

// After is the moment after something was done for an action.
func After[What any](what What, of string) { reach(Point(WhenAfter, what), of) }

func reach(point, of string) {
	o, there := order()
	switch {
	case !there || o.Point != point || o.Of != "" && o.Of != of:
	case o.All:
		hold(func() bool { now, there := order(); return there && now == o })
	case os.Rename(orders, orders+reachedSuffix) != nil: // somebody else is there already
	case o.Hold:
		hold(func() bool { return Reached(orders) })
	default:
		end()
	}
}

func order() (o Order, there bool) {
	b, err := os.ReadFile(orders)
	return o, err == nil && json.Unmarshal(b, &o) == nil
}

func hold(still func() bool) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for still() {
		<-tick.C
	}
}

// end is as sudden as an end can be: nothing is deferred, flushed or told.
func end() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // until the signal is there
}
