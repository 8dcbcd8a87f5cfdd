package endpoint

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Reasons of the condition Healthy, besides those of Online.
const (
	reasonHealthy             = "NoProblem"
	reasonClockSkewed         = "ClockSkewed"
	reasonCertificateExpiring = "CertificateExpiring"
	reasonCertificateExpired  = "CertificateExpired"
	reasonContentFailed       = "ContentFailed"
)

// maxSkew of a machine's clock. Its agent takes the time from the fleet, so what is wrong are its logs, and what else relies on the clock.
const maxSkew = 5 * time.Minute

// healthy judges whether something is wrong with an endpoint, the worst first, and tells when its certificate alone changes that.
func healthy(f *facts, online metav1.Condition) (c metav1.Condition, next time.Time) {
	next = certificateChange(f)
	c = metav1.Condition{Type: v1alpha1.EndpointHealthy, Status: metav1.ConditionFalse}
	switch c.Reason, c.Message = certificateProblem(f); {
	case online.Status != metav1.ConditionTrue:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, online.Reason, online.Message
	case c.Reason != "":
	case f.Status.Agent != nil && f.Status.Agent.ContentError != "":
		c.Reason, c.Message = reasonContentFailed, contentMessage(f.Status.Agent.ContentError)
	case f.skew().Abs() > maxSkew:
		c.Reason, c.Message = reasonClockSkewed, skewMessage(f.skew())
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonHealthy, "nothing is wrong, as far as its agent and its certificate tell"
	}
	return c, next
}

// contentMessage is why an agent could not apply content, without the reason in one word that its report begins with.
func contentMessage(reported string) string {
	if _, message, ok := strings.Cut(reported, ": "); ok {
		return message
	}
	return reported
}

func (f *facts) skew() time.Duration {
	if f.Status.Agent == nil || f.Status.Agent.ClockSkewSeconds == nil {
		return 0
	}
	return time.Duration(*f.Status.Agent.ClockSkewSeconds) * time.Second
}

func skewMessage(skew time.Duration) string {
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	return fmt.Sprintf("the machine's clock is %s %s the fleet's: set it", skew.Abs(), direction)
}

// certificateEnd is when the newest certificate expires; zero if there is none.
func (f *facts) certificateEnd() time.Time {
	if f.Status.Identity == nil || f.Status.Identity.CertificateExpirationTime == nil {
		return time.Time{}
	}
	return f.Status.Identity.CertificateExpirationTime.Time
}

// certificateProblem is what is wrong with the certificate; "" for nothing.
func certificateProblem(f *facts) (reason, message string) {
	end := f.certificateEnd()
	switch {
	case end.IsZero() || f.now.Before(end.Add(-f.certificateExpiring)):
		return "", ""
	case f.now.Before(end):
		return reasonCertificateExpiring, fmt.Sprintf("its certificate expires %s, and should have been renewed by now", clock(end))
	case !f.expiredForGood():
		return reasonCertificateExpired, fmt.Sprintf("its certificate expired %s; the agent can renew it until %s", clock(end), clock(end.Add(f.renewalGrace)))
	default:
		return reasonCertificateExpired, fmt.Sprintf("its certificate expired %s, too long ago to be renewed: enrol the machine again", clock(end))
	}
}

// expiredForGood tells whether the certificate can no longer be renewed.
func (f *facts) expiredForGood() bool {
	end := f.certificateEnd()
	return !end.IsZero() && !f.now.Before(end.Add(f.renewalGrace))
}

// certificateChange is when certificateProblem changes next; zero for never.
func certificateChange(f *facts) time.Time {
	end := f.certificateEnd()
	if end.IsZero() {
		return end
	}
	for _, t := range []time.Time{end.Add(-f.certificateExpiring), end, end.Add(f.renewalGrace)} {
		if f.now.Before(t) {
			return t
		}
	}
	return time.Time{}
}
