package endpoint

import (
	"cmp"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Reasons of the condition InSync, besides those of Online.
const (
	reasonApplied            = "Applied"
	reasonWaitingForEndpoint = "WaitingForEndpoint"
	reasonPolicyPending      = "PolicyPending"
	reasonIsolationDiffers   = "IsolationDiffers"
	reasonProxyDiffers       = "ProxyDiffers"
)

// inSync judges whether the machine runs what is declared for it, as far as its agent says.
func inSync(f *facts, online metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.EndpointInSync, Status: metav1.ConditionUnknown}
	switch {
	case f.Status.Identity == nil:
		c.Reason, c.Message = reasonNotEnrolled, online.Message
		return c
	case f.Status.Agent == nil:
		c.Reason, c.Message = reasonNeverSeen, "its agent has not said yet what it runs"
		return c
	}
	if c.Reason, c.Message = drift(f); c.Reason == "" {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonApplied, "runs what is declared for it"
		return c
	}
	c.Status = metav1.ConditionFalse
	if online.Status != metav1.ConditionTrue {
		c.Reason = reasonWaitingForEndpoint
	}
	if a := f.Status.Agent; a.RejectedOrders > 0 && a.LastRejection != "" {
		c.Message += fmt.Sprintf("; it has refused an order: %s", a.LastRejection)
	}
	return c
}

// drift is the first thing in which the machine differs from what is declared; "" for none.
func drift(f *facts) (reason, message string) {
	agent := f.Status.Agent
	if !applied(f.Endpoint, f.policy) {
		return reasonPolicyPending, policyMessage(agent, f.policy)
	}
	if want := f.Spec.Isolation; want != "" && want != cmp.Or(agent.Isolation, v1alpha1.Released) {
		return reasonIsolationDiffers, fmt.Sprintf("isolation is declared %s, and the machine is %s", want, cmp.Or(agent.Isolation, v1alpha1.Released))
	}
	if want := f.Spec.Proxy; want != nil && string(want.URL) != string(agent.Proxy) {
		return reasonProxyDiffers, fmt.Sprintf("the proxy is declared %s, and the agent uses %s", cmp.Or(string(want.URL), "none"), cmp.Or(string(agent.Proxy), "none"))
	}
	return "", ""
}

func policyMessage(agent *v1alpha1.EndpointAgent, p *v1alpha1.EndpointPolicy) string {
	switch {
	case p == nil:
		return "no policy selects it: the defaults come with its next heartbeat"
	case agent.PolicyID == string(p.UID):
		return fmt.Sprintf("policy %s: revision %d comes with its next heartbeat, it runs revision %d", p.Name, p.Status.Revision, agent.PolicyRevision)
	default:
		return fmt.Sprintf("policy %s comes with its next heartbeat", p.Name)
	}
}
