package rig

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/test/audit"
)

func TestSum(t *testing.T) {
	const text = `# HELP sessions Sessions.
# TYPE sessions gauge
sessions 17
sessions_closed_total{code="1000"} 3
sessions_closed_total{code="4409",why="a b"} 2.5e+01
process_resident_memory_bytes 2.097152e+07
`
	for name, want := range map[string]float64{"sessions": 17, "sessions_closed_total": 28, "process_resident_memory_bytes": 20971520, "sess": 0, "nothing": 0} {
		if got, err := Sum(text, name); err != nil || got != want {
			t.Errorf("%s: %g, %v, want %g", name, got, err, want)
		}
	}
	if _, err := Sum("sessions x\n", "sessions"); err == nil {
		t.Error("x is a number")
	}
}

func TestWrites(t *testing.T) {
	kinds := map[string]*audit.Object{
		"Endpoints":                   {APIGroup: "rollcall.dev", Resource: "endpoints", Subresource: "status"},
		"endpointpolicies/status":     {APIGroup: "rollcall.dev", Resource: "endpointpolicies", Subresource: "status"},
		"endpoints":                   {Resource: "endpoints"}, // the core's
		"Leases":                      {APIGroup: "coordination.k8s.io", Resource: "leases"},
		"Events":                      {APIGroup: "events.k8s.io", Resource: "events"},
		"tokens":                      {Resource: "serviceaccounts", Subresource: "token"},
		"configmaps":                  {Resource: "configmaps"},
		"certificatesigningrequests":  {APIGroup: "certificates.k8s.io", Resource: "certificatesigningrequests"},
		"endpointpolicies":            {APIGroup: "rollcall.dev", Resource: "endpointpolicies"},
		"endpointsecurity/everything": {APIGroup: "rollcall.dev", Resource: "endpointsecurity", Subresource: "everything"},
	}
	for want, o := range kinds {
		if got := kindOf(audit.Event{ObjectRef: o}); got != want {
			t.Errorf("%+v: %s, want %s", o, got, want)
		}
	}
	before := Writes{"Endpoints": 10, "Leases": 100, "Events": 5}
	since := Writes{"Endpoints": 12, "Leases": 160, "Events": 5, "tokens": 1}.Since(before)
	if diff := cmp.Diff(Writes{"Endpoints": 2, "Leases": 60, "tokens": 1}, since); diff != "" {
		t.Errorf("since (-want +got):\n%s", diff)
	}
	if got := since.Others(2); got != "Leases 30, tokens 0" {
		t.Error(got)
	}
	if got := (Writes{"Endpoints": 3}).Others(1); got != "none" {
		t.Error(got)
	}
}
