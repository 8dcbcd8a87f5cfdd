package content

import (
	"fmt"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Situation is what an offer is judged by.
type Situation struct {
	// FleetID, Namespace as assigned, IdentityID and Platform are the endpoint's.
	FleetID, Namespace, IdentityID, Platform string
	// Sequence is the highest of an offer that was taken up, 0 for none, and for an offer that was taken up itself.
	Sequence uint64
	// Version and Digest of the content in use, empty for none.
	Version, Digest string
	// Policy that is obeyed, nil for the defaults.
	Policy *agentv1.Policy
	// Now is the fleet's time, or an earlier one while it is not known: a delay must not end too soon.
	Now time.Time
}

// Verdict is what an agent does about an offer.
type Verdict int

// Verdicts.
const (
	// Ignore: it is not for this agent, and leaves nothing behind.
	Ignore Verdict = iota
	// Refuse: it is counted and shown, and leaves nothing else behind.
	Refuse
	// Defer: the policy makes it wait.
	Defer
	// Keep: what it offers is in use.
	Keep
	// Take: it is to be downloaded and put to use.
	Take
)

// Judgement of an offer.
type Judgement struct {
	Verdict Verdict
	// Reason of a refusal or a deferral, in CamelCase; Message says it to people.
	Reason, Message string
	// Until is when a delay ends; zero for what does not end by itself.
	Until time.Time
	// Artifact to download, or that is in use.
	Artifact *agentv1.Artifact
}

// Reasons of judgements.
const (
	ReasonOtherFleet     = "OtherFleet"
	ReasonOtherNamespace = "OtherNamespace"
	ReasonMalformed      = "Malformed"
	ReasonUnsupported    = "Unsupported"
	ReasonSuperseded     = "Superseded"
	ReasonDowngrade      = "Downgrade"
	ReasonOtherContent   = "OtherContent"
	ReasonPinned         = "Pinned"
	ReasonDelayed        = "Delayed"
)

// Judge decides about an offer whose signature and bounds are good. It may be asked again whenever the situation has changed.
//
// An endpoint goes back to a lower version in two cases alone: the version that it runs is among those that the offer withdraws, or its policy pins the
// offered one. In both the delay of the policy does not count: the one was taken back, the other was chosen by a person. Nor does the order of
// sequences count for a pinned version, whose offer may be older than one that was taken up.
//
// Another file under the version in use is refused: the version is all that people see of what an endpoint runs, so it must name one thing.
func Judge(o *agentv1.Offer, s Situation) Judgement {
	if o.GetKind() != agentv1.ReleaseKind_RELEASE_KIND_CONTENT {
		return Judgement{}
	}
	if o.GetFleetId() != s.FleetID {
		return refuse(ReasonOtherFleet, "it is of another fleet")
	}
	if o.GetNamespace() != s.Namespace {
		return refuse(ReasonOtherNamespace, "it is for another namespace")
	}
	if !InShare(o.GetReleaseUid(), s.IdentityID, o.GetShare()) {
		return Judgement{}
	}
	offered, err := ParseVersion(o.GetVersion())
	if err != nil {
		return refuse(ReasonMalformed, err.Error())
	}
	artifact := Find(o, s.Platform)
	if artifact == nil {
		return refuse(ReasonUnsupported, "it has no content of a kind that this agent knows")
	}
	pin := s.Policy.GetContentVersion()
	pinned := Same(pin, o.GetVersion())
	if o.GetSequence() <= s.Sequence && !pinned {
		return refuse(ReasonSuperseded, "a later one was taken up")
	}
	return judge(o, s, offered, artifact, pin, pinned)
}

// judge decides about an offer that is for this agent.
func judge(o *agentv1.Offer, s Situation, offered Version, artifact *agentv1.Artifact, pin string, pinned bool) Judgement {
	own, err := ParseVersion(s.Version)
	runs := err == nil
	if runs && own == offered {
		if artifact.GetSha256() != s.Digest {
			return refuse(ReasonOtherContent, "it is another file under the version in use")
		}
		if pin != "" && !pinned {
			return waitsForPin(pin, artifact)
		}
		return Judgement{Verdict: Keep, Artifact: artifact}
	}
	withdrawn := runs && slices.ContainsFunc(o.GetWithdrawn(), func(v string) bool { return Same(v, s.Version) })
	switch {
	case runs && offered.Compare(own) < 0 && !withdrawn && !pinned:
		return refuse(ReasonDowngrade, fmt.Sprintf("version %s is in use, which is newer and was not withdrawn", s.Version))
	case pin != "" && !pinned:
		return waitsForPin(pin, artifact)
	case withdrawn || pinned:
		return Judgement{Verdict: Take, Artifact: artifact}
	}
	until := o.GetReleasedAt().AsTime().AddDate(0, 0, int(s.Policy.GetContentDelayDays()))
	if s.Policy.GetContentDelayDays() > 0 && s.Now.Before(until) {
		return Judgement{
			Verdict: Defer, Reason: ReasonDelayed, Until: until, Artifact: artifact,
			Message: "the policy delays content by " + days(s.Policy.GetContentDelayDays()) + ", until " + until.UTC().Format("2006-01-02 15:04Z"),
		}
	}
	return Judgement{Verdict: Take, Artifact: artifact}
}

func waitsForPin(pin string, a *agentv1.Artifact) Judgement {
	return Judgement{Verdict: Defer, Reason: ReasonPinned, Message: "the policy pins content to version " + line(pin, MaxVersion), Artifact: a}
}

func refuse(reason, message string) Judgement {
	return Judgement{Verdict: Refuse, Reason: reason, Message: message}
}

func days(n uint32) string {
	if n == 1 {
		return "a day"
	}
	return fmt.Sprint(n, " days")
}
