package rig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rollcall-dev/rollcall/test/audit"
)

// Writes are how many writes an API server has carried out, by what they were to.
type Writes map[string]int

// OfEndpoints is the key of those to Endpoints and their status.
const OfEndpoints = "Endpoints"

// Writes adds up what the audit log has so far.
func (s *System) Writes() (Writes, error) {
	n := Writes{}
	return n, audit.Read(s.API.AuditLog, func(e audit.Event) {
		if e.Wrote() {
			n[kindOf(e)]++
		}
	})
}

// kindOf names what was written.
func kindOf(e audit.Event) string {
	switch o := e.ObjectRef; {
	case o.APIGroup == "rollcall.dev" && o.Resource == "endpoints":
		return OfEndpoints
	case o.Resource == "leases":
		return "Leases"
	case o.Resource == "events":
		return "Events"
	case o.Subresource == "token":
		return "tokens"
	default:
		return strings.TrimSuffix(o.Resource+"/"+o.Subresource, "/")
	}
}

// Since are those that have come since before.
func (w Writes) Since(before Writes) Writes {
	n := Writes{}
	for kind, all := range w {
		if all > before[kind] {
			n[kind] = all - before[kind]
		}
	}
	return n
}

// Others says how many there were an hour to anything but Endpoints.
func (w Writes) Others(hours float64) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(w)) {
		if kind != OfEndpoints {
			all = append(all, fmt.Sprintf("%s %.0f", kind, float64(w[kind])/hours))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
