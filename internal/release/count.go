package release

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
)

const (
	maxFailures = 10
	maxNamed    = 3
	// maxMessage and maxFailure are what the API holds, in bytes.
	maxMessage, maxFailure = 256, 256
)

// Counted is an endpoint that was matched with the releases of its namespace.
type Counted struct {
	Name string
	// Runs is the version that its agent runs, Failure why it could not apply another, as it is reported: "Reason: message".
	Runs, Failure string
	// Hindrance is why the endpoint cannot take a release now, in words such as "is offline"; empty: it can.
	Hindrance string
	// Has says which release it should have by UID; empty: none.
	Has string
}

// Count makes the status of a release's rollout from the endpoints that it selects.
func Count(r *v1alpha1.ContentRelease, selected []Counted) *v1alpha1.RolloutStatus {
	out := &v1alpha1.RolloutStatus{Selected: int32(len(selected))} //nolint:gosec // fewer than that are in a cluster
	if r.Status.Offer != nil && State(r) == v1alpha1.ReleaseActive {
		out.Percent = 100
	}
	withdrawn := State(r) == v1alpha1.ReleaseWithdrawn
	own, err := content.ParseVersion(r.Spec.Version)
	t := tally{}
	for _, e := range selected {
		runs, known := content.ParseVersion(e.Runs)
		newer := known == nil && err == nil && runs.Compare(own) > 0
		switch {
		case known == nil && err == nil && runs == own:
			out.Applied++
			if withdrawn { // else all of a fleet, and nobody is told
				t.still = append(t.still, strings.TrimSpace(e.Name+" "+e.Hindrance))
			}
		case newer:
			t.newer++
		case e.Has != string(r.UID):
			t.others++
		case e.Failure != "":
			out.Failed++
			t.missing = append(t.missing, e.Name+" failed")
			out.Failures = append(out.Failures, failure(e))
		case e.Hindrance != "":
			t.missing = append(t.missing, e.Name+" "+e.Hindrance)
		default:
			t.waiting++
		}
	}
	slices.SortFunc(out.Failures, func(a, b v1alpha1.EndpointFailure) int { return cmp.Compare(a.EndpointName, b.EndpointName) })
	out.Failures = out.Failures[:min(len(out.Failures), maxFailures)]
	out.Message = cut(t.message(r, out), maxMessage)
	return out
}

// tally is who does not run a release, and why, and who does.
type tally struct {
	waiting, newer, others int
	missing, still         []string
}

func failure(e Counted) v1alpha1.EndpointFailure {
	reason, message, ok := strings.Cut(e.Failure, ": ")
	if !ok {
		reason, message = "Failed", e.Failure
	}
	return v1alpha1.EndpointFailure{EndpointName: v1alpha1.LocalName(e.Name), Reason: v1alpha1.Text(cut(reason, 128)), Message: cut(message, maxFailure)}
}

func (t *tally) message(r *v1alpha1.ContentRelease, c *v1alpha1.RolloutStatus) string {
	run := fmt.Sprintf("%d of %d run it", c.Applied, c.Selected)
	switch {
	case State(r) == v1alpha1.ReleaseWithdrawn && c.Applied == 0:
		return "withdrawn: nobody runs it"
	case State(r) == v1alpha1.ReleaseWithdrawn:
		return fmt.Sprintf("withdrawn: %d still %s it: ", c.Applied, either(int(c.Applied), "runs", "run")) + strings.Join(named(t.still, "others"), ", ")
	case r.Status.Offer == nil:
		return ""
	case State(r) == v1alpha1.ReleasePaused:
		return "paused: " + run + ", it is offered to nobody new"
	case c.Selected == 0:
		return "it selects no endpoint that has enrolled"
	case c.Applied == c.Selected:
		return fmt.Sprintf("all %d run it", c.Selected)
	case c.Applied == 0 && c.Failed == 0 && t.waiting > 0:
		return "offered with the next heartbeat of each endpoint"
	}
	parts := named(t.missing, "others cannot take it yet")
	for _, p := range []struct {
		n         int
		one, many string
	}{
		{t.waiting, "will with the next heartbeat", "will with the next heartbeat"},
		{t.newer, "runs a newer one", "run a newer one"},
		{t.others, "is to run another one", "are to run another one"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, either(p.n, p.one, p.many)))
		}
	}
	return run + "; " + strings.Join(parts, ", ")
}

// named are the first few of all, in order, and how many others there are.
func named(all []string, others string) []string {
	all = slices.Sorted(slices.Values(all))
	if more := len(all) - maxNamed; more > 0 {
		return append(all[:maxNamed], fmt.Sprintf("%d %s", more, others))
	}
	return all
}

func either(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// cut shortens s to at most limit bytes, between characters.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
}

// Cut shortens a message to what the API holds of one.
func Cut(s string) string { return cut(s, maxMessage) }
