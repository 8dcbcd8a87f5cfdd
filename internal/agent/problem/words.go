package problem

import (
	"fmt"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Facts are what words speak of.
type Facts struct {
	// Identity of the endpoint, and Instance of this start of the agent.
	Identity, Instance string
	// Server is https://host:port; Proxy is empty for none.
	Server, Proxy string
	StateDir      string
	// Expires is when the certificate does, zero for none; Expired that it has.
	Expires time.Time
	Expired bool
	// Skew is the machine's clock minus the fleet's.
	Skew time.Duration
}

// Words say a problem to a person.
type Words struct {
	// State of the agent in one word, as status.summary of the Endpoint where both can know it.
	State string
	// Title is the problem in a few words, Meaning what it means, Advice what to do.
	Title, Meaning, Advice string
}

// States of an agent.
const (
	StateOnline         = "Online"
	StateStarting       = "Starting"
	StateEnrolling      = "Enrolling"
	StateNotEnrolled    = "NotEnrolled"
	StateOffline        = "Offline"
	StateSuspended      = "Suspended"
	StateBlocked        = "Blocked"
	StateDecommissioned = "Decommissioned"
	StateConflict       = "Conflict"
)

const (
	anew = "Get a new token (kubectl get ept, then the Secret <name>-token) and run its install line on this machine."
	// afterwards: what is refused until a person lifts it is asked for seldom.
	afterwards = " Afterwards cytool checkin, here, makes the agent ask at once."
	nothing    = "Nothing: the agent tries again by itself. "
	forAdmin   = "Ask whoever runs the fleet; in the cluster: "
	forget     = "systemctl stop rollcall-agent, rollcall-agent reset --yes, then the install line of a new token."
	reenroll   = "To let this machine in again: " + forget
	ofMachine  = "its Endpoint, the one with status.identity.id {identity}"
)

// misfit is said of what cannot happen between a gateway and an agent that fit together.
var misfit = Words{
	StateOffline, "Server and agent do not fit together",
	"{server} does not know what this agent asks for, or not in this form. It may not be a Rollcall gateway, or something on the way changes requests.",
	"Check the address, and compare the agent's version with the fleet's.",
}

var words = map[wire.Name]Words{
	wire.CertificateRequired: {
		StateOffline, "The server saw no certificate",
		"This machine has a certificate and presented it, and {server} saw none. Something on the way ends the TLS connection in the gateway's place.",
		"Let TLS pass through to the gateway: an L4 load balancer, or a proxy that does CONNECT and does not inspect.",
	},
	wire.CertificateUnknown: {
		StateOffline, "The certificate is of an unknown CA",
		"{server} does not know the CA that issued this machine's certificate. The server may be another fleet's, or the fleet lost its agent CA.",
		"Check that {server} is the right server. If the fleet was set up anew, all its machines must enrol again. " + reenroll,
	},
	wire.CertificateNotYetValid: {
		StateOffline, "The certificate is not yet valid",
		"By the server's clock this machine's certificate begins in the future. The server's clock is behind, or was ahead when the certificate was issued.",
		forAdmin + "compare the clocks of the gateway's and the manager's nodes. The agent keeps its identity and tries again.",
	},
	wire.CertificateExpired: {
		StateOffline, "The certificate has expired",
		"This machine's certificate expired {expires}, and the server has not renewed it: the machine was away for longer than the grace, or the manager does not answer.",
		"If the machine was away for more than a month, it must enrol again. " + reenroll + " Otherwise look at the manager's log.",
	},
	wire.CertificateSuperseded: {
		StateConflict, "The certificate was replaced by a newer one",
		"Another machine, or a copy of this one, renewed this identity's certificate; the one here no longer counts. Typical of cloned disks and restored backups.",
		"Decide which machine is the true one. On each other one: " + forget,
	},
	wire.EndpointSuspended: {
		StateSuspended, "The endpoint is suspended",
		"Somebody has set spec.lifecycle of this machine's Endpoint to Suspended. The server refuses it until that is taken back; the agent keeps its identity and asks again.",
		forAdmin + "kubectl patch fep NAME --type=merge -p '{\"spec\":{\"lifecycle\":\"Active\"}}' on " + ofMachine + "." + afterwards,
	},
	wire.EndpointBlocked: {
		StateBlocked, "The endpoint is blocked",
		"Somebody has set spec.lifecycle of this machine's Endpoint to Blocked. The server refuses it, and the machine may not enrol again either.",
		"Ask whoever runs the fleet why. To lift it, set spec.lifecycle to Active on " + ofMachine + "." + afterwards,
	},
	wire.EndpointDecommissioned: {
		StateDecommissioned, "The endpoint is decommissioned",
		"Somebody has retired this machine: spec.lifecycle of its Endpoint is Decommissioned. The server refuses it for good.",
		"Remove the agent from this machine (systemctl disable --now rollcall-agent). If that was a mistake, set spec.lifecycle to Active, then enrol it again. " + reenroll,
	},
	wire.EndpointUnknown: {
		StateNotEnrolled, "The endpoint does not exist any more",
		"The Endpoint with the identity {identity} was deleted in the cluster. The agent keeps its identity, in case it is restored from a backup.",
		reenroll,
	},
	wire.IdentityConflict: {
		StateConflict, "Two machines use this identity",
		"Another machine, or another copy of this one, beats with the same identity. Both may beat; none gets actions until a person decides. Typical of cloned disks.",
		"Decide which machine is the true one. On each other one: " + forget + " " +
			"If this is the only one (it was restored from a backup), annotate its Endpoint: rollcall.dev/accept-instance={instance}.",
	},
	wire.SessionReplaced: {
		StateOffline, "A newer start of this agent took over",
		"The server has heard from a later start of this agent, so what this one sends counts as late. If this agent was not restarted just now, a copy of it is running elsewhere.",
		nothing + "If it stays, look for a clone of this machine.",
	},
	wire.TokenUnknown: {
		StateNotEnrolled, "The enrolment token is unknown",
		"{server} does not know this token: its EnrollmentToken was deleted, or it belongs to another fleet.",
		anew,
	},
	wire.TokenExpired: {
		StateNotEnrolled, "The enrolment token has expired",
		"The token's EnrollmentToken has passed its expiry before this machine enrolled.",
		anew,
	},
	wire.TokenExhausted: {
		StateNotEnrolled, "The enrolment token is used up",
		"As many machines as the token allows have enrolled with it, and this one is not among them.",
		"Raise maxUses of the EnrollmentToken, then run cytool checkin. Or get a new token and run its install line on this machine.",
	},
	wire.ProofInvalid: {
		StateNotEnrolled, "The proof does not hold",
		"The server could not verify what this machine signed: the token is damaged, or it was made by another fleet's manager.",
		anew,
	},
	wire.EnrollmentDenied: {
		StateNotEnrolled, "The enrolment was denied",
		"The token is good, but the manager does not admit this machine: the Endpoint that it asks for is taken, or its namespace is going away.",
		forAdmin + "kubectl describe ept shows why. Then: cytool checkin.",
	},
	wire.CSRInvalid: {
		StateNotEnrolled, "The certificate request is not acceptable",
		"The server does not accept the key that this machine made. The agent has thrown it away.",
		"Run cytool checkin to try with a new key. If it stays, agent and server do not fit together: upgrade the agent.",
	},
	wire.Malformed: {
		StateOffline, "The server does not understand the agent",
		"{server} found the agent's message malformed. Agent and server do not fit together, or something on the way changes messages.",
		"Compare the agent's version with the fleet's, and report it with what the server said.",
	},
	wire.ArtifactNotOffered: {
		StateOnline, "The content was not offered to this machine",
		"{server} does not know of an offer for this machine that names the content which was asked for: it was withdrawn or replaced meanwhile.",
		nothing,
	},
	wire.RangeNotSatisfiable: {
		StateOnline, "The content is shorter than what came of it",
		"{server} has less of the content than the agent has already. The agent begins again.",
		nothing,
	},
	wire.StoreUnavailable: {
		StateOnline, "The server does not have the content yet",
		"{server} was asked for content that its store does not have, or the store does not answer. What is in use stays in use.",
		"Nothing: the agent tries again by itself. If it stays, the fleet's operators find the reason in the gateway's log and in the ContentRelease.",
	},
	wire.NotFound: misfit, wire.MethodNotAllowed: misfit, wire.LengthRequired: misfit, wire.MediaTypeUnsupported: misfit,
	wire.MessageTimeout: {
		StateOffline, "The request did not arrive in time",
		"{server} waited for the rest of a request and gave up: the line is very slow, or something on the way holds data back.",
		nothing,
	},
	wire.TLSEMSRequired: {
		StateOffline, "TLS without the extended master secret",
		"The connection came without the extended master secret (RFC 7627), which every current TLS library offers. Something on the way ends TLS.",
		"Let TLS pass through to the gateway.",
	},
	wire.AgentVersionUnsupported: {
		StateOnline, "This agent is too old for the websocket",
		"{server} serves this version of the agent by heartbeats over HTTPS and gives it no websocket: actions wait for heartbeats.",
		"Upgrade the agent on this machine.",
	},
	wire.SubprotocolUnsupported: {
		StateOnline, "Server and agent have no websocket in common",
		"{server} speaks none of the websocket's forms that this agent knows. Heartbeats go over HTTPS, and actions wait for them.",
		"Compare the agent's version with the fleet's.",
	},
	wire.ProtocolVersionUnsupported: {
		StateOffline, "The server no longer speaks this agent's protocol",
		"{server} has given up version 1 of the agent protocol.",
		"Upgrade the agent on this machine.",
	},
	wire.PayloadTooLarge: {
		StateOffline, "The heartbeat was too large",
		"The server takes smaller messages than this machine's inventory makes. The next heartbeat comes without it.",
		nothing + "Report it if it stays: the bound is part of the protocol.",
	},
	wire.Throttled: {
		StateOffline, "The server asks to slow down",
		"Too many requests came from here, or from many machines at once.",
		nothing + "If it stays, another program may be using this machine's identity.",
	},
	wire.Internal:   {StateOffline, "The server or the agent failed", "An error that should not happen did.", nothing + "Report it with the detail."},
	wire.Overloaded: {StateOffline, "The server is overloaded", "{server} has more to do than it can.", nothing + forAdmin + "add gateway replicas."},
	wire.Draining:   {StateOffline, "The server is about to stop", "{server} is being restarted or moved; another replica takes over.", nothing},
	wire.NotReady: {
		StateOffline, "The server is not ready", "{server} cannot answer yet: it is starting, or has no connection to its API server.",
		nothing + "If it lasts for minutes, look at the gateway's and the manager's logs.",
	},
	ServerUnreachable: {
		StateOffline, "The server cannot be reached", "There is no connection to {server}, or no answer.",
		nothing + "If it stays: does the name resolve, does a firewall or a proxy stand between (--proxy, HTTPS_PROXY), does the gateway run?",
	},
	ServerUntrusted: {
		StateOffline, "The server does not belong to this fleet",
		"What answers at {server} has no certificate of this fleet's server CA for that name. The agent has told it nothing.",
		"Check the address, and that nothing on the way ends TLS (inspecting proxies do). The gateway's --names must have the name that agents dial.",
	},
	ServerClockDisagrees: {
		StateOffline, "The server's certificate is not valid now",
		"The certificate of {server} is of this fleet, but not valid at the fleet's time as this agent knows it.",
		forAdmin + "has the gateway renewed its serving certificate, and is the manager's clock right?",
	},
	ServerNotOfFleet: {
		StateOffline, "The server's trust is not this fleet's",
		"What {server} publishes does not lead back to the root key that this machine's token pinned. It is another fleet, an old backup, or an impostor. The agent has told it nothing.",
		"Check the address. If the fleet was set up anew, its machines need new tokens. " + reenroll,
	},
	ProxyRefused: {
		StateOffline, "The proxy does not let the agent through", "The proxy {proxy} did not open a tunnel to {server}.",
		"Allow CONNECT to the server's host and port there, or name another proxy (--proxy, HTTPS_PROXY; direct for none).",
	},
	ReplyMalformed: {
		StateOffline, "The answer was not the gateway's", "{server} answered with something that is not of the agent protocol.",
		"Check that the address is a Rollcall gateway's, and what stands between.",
	},
	CertificateRefused: {
		StateOffline, "The certificate that came is not the right one",
		"The server answered with a certificate that is not for this machine's key, fleet and identity. The agent did not take it.",
		nothing + "If it stays, the gateway is faulty or not to be trusted.",
	},
	TokenMissing: {
		StateNotEnrolled, "This machine is not enrolled", "There is no identity in {dir}, and no token to get one with.",
		"Run the install line of an EnrollmentToken: kubectl get ept, then the Secret <name>-token.",
	},
	TrustMissing: {
		StateOffline, "The fleet's trust is lost", "A file in {dir} was damaged, and without it the agent cannot tell its server from an impostor.", reenroll,
	},
	StateUnwritable: {
		StateOffline, "The state directory cannot be used", "The agent cannot read or write {dir}. It goes on with what it has in memory and contacts nobody before its start is counted on disk.",
		"Free some space, or repair the disk or its permissions.",
	},
	ClockSkewed: {
		StateOnline, "This machine's clock is wrong", "It is {skew} the fleet's. Rollcall does not mind; certificates, logs and logins of others will.",
		"Set the clock, and turn on time synchronisation (timedatectl set-ntp true).",
	},
}

// Explain puts a problem into words. A name that this version does not know is told as it came.
func Explain(name wire.Name, f Facts) Words {
	w, ok := words[name]
	if !ok {
		w = Words{StateOffline, "The server refuses this agent", "{server} answered with the problem " + string(name) + ", which this version of the agent does not know.", nothing}
	}
	if name == wire.CertificateExpired && !f.Expired {
		w.Meaning = "By the server's clock this machine's certificate has expired; by the fleet's time as the agent knows it, it expires {expires}. The server has not renewed it yet."
	}
	fill := strings.NewReplacer(
		"{identity}", f.Identity, "{instance}", f.Instance, "{server}", f.Server, "{proxy}", f.Proxy, "{dir}", f.StateDir,
		"{expires}", "on "+f.Expires.UTC().Format("2006-01-02 at 15:04:05Z"), "{skew}", Ahead(f.Skew),
	)
	w.Meaning, w.Advice = fill.Replace(w.Meaning), strings.TrimSpace(fill.Replace(w.Advice))
	return w
}

// Ahead says which way a clock is off.
func Ahead(skew time.Duration) string {
	if skew < 0 {
		return Span(-skew) + " behind"
	}
	return Span(skew) + " ahead of"
}

// Span is a duration as people say it: the two largest units.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Round(time.Second); {
	case d >= 2*day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return d.String()
	}
}
