package action

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// since is the first version of agents that can do a type of action, where that is known. Whether this one can is what its capabilities say.
var since = map[v1alpha1.ActionType]string{
	v1alpha1.LiveTerminal:     "6.1",
	v1alpha1.PerformHeartbeat: "8.0.0",
	v1alpha1.TerminateProcess: "8.0.0",
}

// needsSession are types that no heartbeat can bring.
func needsSession(t v1alpha1.ActionType) bool { return t == v1alpha1.LiveTerminal }

// unsupported is why the endpoint cannot do the action, or must not: row 4; empty if it can, or has not said what it can. What an agent says
// whose identity another uses too counts for nothing.
func (s *step) unsupported(ep *Endpoint) (reason, message string) {
	if ep == nil {
		return "", ""
	}
	t, name := s.Spec.Type, s.Spec.EndpointName
	if slices.Contains(ep.Disabled, t) {
		return ReasonDisabledByPolicy, fmt.Sprintf("not sent: the policy %s of %s disables %s", ep.Policy, name, t)
	}
	tooOld := older(ep.AgentVersion, since[t])
	can := slices.Contains(ep.Capabilities, v1alpha1.Text(t)) && (!tooOld || !needsSession(t)) // without one, whoever lists it can do it
	switch {
	case can || !ep.Reported || ep.IdentityID == "" || ep.Conflict:
		return "", ""
	case tooOld:
		return ReasonAgentTooOld, fmt.Sprintf("not sent: %s needs agent %s or later; %s has %s", t, since[t], name, ep.AgentVersion)
	default:
		return ReasonAgentTooOld, fmt.Sprintf("not sent: agent %s on %s cannot do %s; one that can lists it in status.agent.capabilities of its Endpoint",
			ep.AgentVersion, name, t)
	}
}

// older tells whether a version is below a minimum. What is no version is not.
func older(v, minimum string) bool {
	have, err := version.ParseGeneric(v)
	if err != nil || minimum == "" {
		return false
	}
	return have.LessThan(version.MustParseGeneric(minimum))
}
