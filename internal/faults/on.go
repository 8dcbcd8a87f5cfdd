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
	b, err := os.ReadFile(orders)
	var o Order
	if err != nil || json.Unmarshal(b, &o) != nil || o.Point != point || o.Of != "" && o.Of != of {
		return
	}
	if os.Rename(orders, orders+reachedSuffix) != nil { // somebody else is there already
		return
	}
	if !o.Hold {
		end()
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for Reached(orders) {
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
