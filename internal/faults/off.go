//go:build !faults

package faults

import "github.com/spf13/pflag"

// AddFlags adds no flag to what is shipped.
func AddFlags(*pflag.FlagSet) {}

// Before is the moment before something is done for an action; a write of a row of the table, for instance.
func Before[What any](What, string) {}

// After is the moment after something was done for an action.
func After[What any](What, string) {}
