package wire

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Values of a field in the table: what is not one of these is set as it is.
type (
	letters int           // text of so many bytes
	octets  int           // so many bytes
	count   int           // a repeated field of so many good elements
	unset   struct{}      // a message field that is absent
	span_   time.Duration // a Duration
	unix    int64         // a Timestamp
)

// bound is a field with values at its bound, which are good, and one past it, which are not.
type bound struct {
	field string
	good  []any
	bad   []any
	says  string
}

func some(v ...any) []any { return v }

// without takes values out of what is refused: another row, or another test, has them.
func (b bound) without(v any) bound {
	b.bad = slices.DeleteFunc(b.bad, func(bad any) bool { return bad == v })
	return b
}

func textUpTo(field string, lo, hi int) bound {
	b := bound{field, some(letters(lo), letters(hi)), some(letters(hi+1), "tab\tin", "\xff", "\u0085", "del\x7f"), between(lo, hi, "bytes of UTF-8")}
	if lo > 0 {
		b.bad = append(b.bad, letters(lo-1))
	}
	return b
}

func hexOf(field string, n int, optional bool) bound {
	b := bound{field, some(hexDigits(n)), some(hexDigits(n)+"0", hexDigits(n)[1:], strings.Repeat("A", n), strings.Repeat("g", n)), fmt.Sprintf("%d lower-case hexadecimal digits", n)}
	return b.orEmpty(optional)
}

func idOf(field string, optional bool) bound {
	return bound{field, some(someUUID), some(someUUID+"0", someUUID[1:], strings.ToUpper(someUUID), "{"+someUUID[:34]+"}", strings.ReplaceAll(someUUID, "-", "0")), "a lower-case UUID"}.orEmpty(optional)
}

func (b bound) orEmpty(optional bool) bound {
	if optional {
		b.good = append(b.good, "")
	} else {
		b.bad = append(b.bad, "")
	}
	return b
}

func numberOf(field string, lo, hi uint64) bound {
	b := bound{field, some(lo, hi), some(hi + 1), fmt.Sprintf("from %d to %d", lo, hi)}
	if lo > 0 {
		b.bad = append(b.bad, lo-1)
	}
	return b
}

func number32(field string, lo, hi uint32) bound {
	b := numberOf(field, uint64(lo), uint64(hi))
	b.good, b.bad = some(lo, hi), some(hi+1)
	if lo > 0 {
		b.bad = append(b.bad, lo-1)
	}
	return b
}

func timeOf(field string, optional bool) bound {
	first, last := unix(-62135596800), unix(253402300799)
	b := bound{field, some(first, last), some(first-1, last+1, &timestamppb.Timestamp{Nanos: 1_000_000_000}, &timestamppb.Timestamp{Nanos: -1}), "a time from year 1 to 9999"}
	if optional {
		b.good = append(b.good, unset{})
	} else {
		b.bad = append(b.bad, unset{})
	}
	return b
}

func spanOf(field string, lo, hi time.Duration) bound {
	b := bound{field, some(span_(lo), span_(hi), unset{}), some(&durationpb.Duration{Seconds: 1, Nanos: -1}, span_(lo-1)), "from " + lo.String() + " to "}
	if hi < math.MaxInt64 {
		b.bad = append(b.bad, span_(hi+1))
	}
	return b
}

func requiredSpanOf(field string, lo, hi time.Duration) bound {
	b := spanOf(field, lo, hi)
	b.good = slices.DeleteFunc(b.good, func(v any) bool { return v == unset{} })
	return b
}

func pathOf(field string, optional bool) bound {
	long := "/" + strings.Repeat("a", MaxPath-1)
	return bound{
		field, some("/", "/a b/ö", `C:\x`, "c:/x", `\\server\x`, long),
		some("a", "./a", "C:", "C:x", "1:/x", `\x`, "/a\nb", "/\xff", long+"a"), "an absolute path of at most 4096 bytes",
	}.orEmpty(optional)
}

func networkOf(field string) bound {
	return bound{
		field, some("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"),
		some("", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/8\n", "example.com/8", "fe80::1%eth0/64"), "a network such as 10.0.0.0/8",
	}
}

func wordOf(field string) bound {
	long := strings.Repeat("A", MaxReason)
	return bound{
		field, some("D", "TimedOut2", long),
		some("", "done", "Two Words", "With-Dash", "2Fast", "Größe", "Done\n", long+"a"), "a word in CamelCase of at most 64 bytes",
	}
}

func countOf(field string, lo, hi int) bound {
	b := bound{field, some(count(lo), count(hi)), some(count(hi + 1)), between(lo, hi, "elements")}
	if lo > 0 {
		b.bad = append(b.bad, count(lo-1))
	}
	return b
}

func bytesOf(field string, hi int) bound {
	return bound{field, some(octets(1), octets(hi)), some(octets(0), octets(hi+1)), between(1, hi, "bytes")}
}

func versionOf(field string) bound {
	long := "1.2.3-" + strings.Repeat("a", MaxVersion-6)
	return bound{field, some("0.0.0", "10.20.30-rc.1+build.007", long), some("", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3-ä", "-1.2.3", long+"a"), "a semantic version of at most 64 bytes"}
}

func requiredMessage(field string) bound { return bound{field, nil, some(unset{}), "present"} }

func releaseBounds(field string) []bound {
	return []bound{
		textUpTo(field+".version", 0, 64), hexOf(field+".digest", 64, true), numberOf(field+".sequence", 0, MaxNumber),
		textUpTo(field+".reason", 0, 64), textUpTo(field+".message", 0, 256),
	}
}

// envelopeBounds are those of an envelope with at most so many signatures.
func envelopeBounds(field string, maxPayload, signatures int) []bound {
	within := "an envelope within its bounds"
	return []bound{
		{field + ".payload", some(octets(1), octets(maxPayload)), some(octets(0), octets(maxPayload+1)), within},
		{field + ".signatures", some(count(1), count(signatures)), some(count(0), count(signatures+1)), within},
		{field + ".signatures[0].sig", some(octets(1), octets(128)), some(octets(0), octets(129)), within},
		{field + ".signatures[0].keyid", some(letters(0), letters(128)), some(letters(129), "\n", "ä", "\x7f"), within},
	}
}

var heartbeatBounds = join([]bound{
	requiredMessage("agent"),
	versionOf("agent.version"), textUpTo("agent.platform", 1, 256), hexOf("agent.instance_id", 32, false), numberOf("agent.epoch", 1, MaxNumber),
	numberOf("agent.session_number", 0, MaxNumber), hexOf("agent.machine_id", 64, true), hexOf("agent.boot_id", 64, true),
	hexOf("agent.journal_id", 32, true), timeOf("agent.journal_created_at", true),
	timeOf("sent_at", true), numberOf("trust_version", 0, MaxNumber), timeOf("assignment_issued_at", true), idOf("policy_id", true),
	numberOf("policy_revision", 0, MaxNumber),
	idOf("state.isolation_action_uid", true), textUpTo("state.proxy_url", 0, 261), idOf("state.proxy_action_uid", true),
	number32("state.quarantined_files", 0, math.MaxInt32), countOf("state.quarantine", 0, 10),
	textUpTo("state.quarantine[0].path", 1, 256), hexOf("state.quarantine[0].sha256", 64, false), numberOf("state.quarantine[0].size", 0, MaxNumber),
	textUpTo("state.quarantine[0].upload_id", 0, 256), textUpTo("state.quarantine[0].error", 0, 256),
	idOf("state.quarantine[0].quarantine_id", false), timeOf("state.quarantine[0].quarantined_at", false),
	spanOf("vitals.uptime", 0, math.MaxInt64),
	{"vitals.load1", some(0.0, 1e6), some(-0.01, 1e6+1, math.NaN(), math.Inf(1)), "from 0 to 1000000"},
	countOf("open_actions", 0, 64), idOf("open_actions[0].action_uid", false),
	textUpTo("capabilities_tag", 0, 256), countOf("capabilities.names", 0, 32), textUpTo("capabilities.names[0]", 1, 64),
	textUpTo("inventory_tag", 0, 256), textUpTo("inventory.hostname", 0, 253), textUpTo("inventory.os_name", 0, 256),
	textUpTo("inventory.os_version", 0, 256), textUpTo("inventory.kernel", 0, 256), textUpTo("inventory.cpu_model", 0, 256),
	number32("inventory.cpu_count", 0, 65536), countOf("inventory.interfaces", 0, 32), textUpTo("inventory.interfaces[0].name", 1, 256),
	textUpTo("inventory.interfaces[0].mac", 0, 256), countOf("inventory.interfaces[0].addresses", 0, 16),
	textUpTo("inventory.interfaces[0].addresses[0]", 1, 256), countOf("inventory.disks", 0, 16), textUpTo("inventory.disks[0].mount", 1, 256),
	textUpTo("inventory.disks[0].filesystem", 0, 256), timeOf("inventory.boot_time", true), textUpTo("inventory.model", 0, 256),
	textUpTo("inventory.arch", 0, 256),
	spanOf("clock_skew", -MaxSkew, MaxSkew), spanOf("beacon_age", 0, MaxSkew), numberOf("rejected_orders", 0, MaxNumber),
	textUpTo("last_rejection", 0, 64), numberOf("spooled_events", 0, MaxNumber), textUpTo("session_error", 0, 256),
}, releaseBounds("content"), releaseBounds("agent_release"))

// carriedBounds are those of the signed things that a gateway hands on.
var carriedBounds = join([]bound{
	{"beacon", some(unset{}), nil, ""},
	{"beacon.payload_type", nil, some("", "application/vnd.rollcall.policy.v1+json"), "an envelope of type application/vnd.rollcall.beacon.v1+json"},
	{"orders[0].payload_type", some(letters(1), letters(128)), some(letters(0), letters(129), "\n", "ä"), "an envelope within its bounds"},
}, envelopeBounds("beacon", 32<<10, 4), envelopeBounds("orders[0]", 32<<10, 4))

var replyBounds = join([]bound{
	timeOf("server_time", true), countOf("orders", 0, 32),
	countOf("send", 0, 8), countOf("features", 0, 32), textUpTo("features[0]", 1, 256), textUpTo("gateway", 0, 256),
}, carriedBounds)

var problemBounds = []bound{
	textUpTo("type", 1, 256), textUpTo("title", 0, 256), number32("status", 0, 999), textUpTo("detail", 0, 1024), textUpTo("instance", 0, 256),
	textUpTo("minimum", 0, 64), countOf("supported", 0, 16), textUpTo("supported[0]", 1, 256),
}

var updateBounds = join([]bound{
	idOf("action_uid", false), number32("percent", 0, 100), textUpTo("message", 0, 256),
	{"result", nil, some(unset{}), "an envelope of type application/vnd.rollcall.result.v1+json"},
	{"result.payload_type", nil, some("", "application/vnd.rollcall.cancel.v1+json"), "an envelope of type application/vnd.rollcall.result.v1+json"},
}, envelopeBounds("result", 32<<10, 1))

var actionHeadBounds = []bound{
	idOf("fleet_id", false), idOf("identity_id", false), idOf("action_uid", false), timeOf("issued_at", false), timeOf("expires_at", false),
}

var actionBounds = join(actionHeadBounds, []bound{
	countOf("requires", 0, 8), textUpTo("requires[0]", 1, 64), textUpTo("requested_by", 0, 256), textUpTo("reason", 0, 256),
	requiredSpanOf("active_deadline", time.Second, 24*time.Hour),
	{"active_deadline", nil, some(unset{}), "present"},
})

// parameterBounds are those of the parameters of an action, by their field.
var parameterBounds = map[string][]bound{
	"quarantine_file": {pathOf("path", true), hexOf("sha256", 64, true)},
	"restore_file":    {idOf("quarantine_id", false), pathOf("path", true)},
	"terminate_process": {
		number32("pid", 2, 1<<22), timeOf("start_time", false).without(unset{}), pathOf("executable", true), hexOf("sha256", 64, true),
		spanOf("grace", 0, 300*time.Second),
	},
	"isolate_endpoint": {countOf("allow", 0, 32), networkOf("allow[0]")},
	"live_terminal": {
		textUpTo("user", 0, 256), countOf("command", 0, 64),
		{"command[0]", some("", letters(4096), "a\nb\x1b[m\u0085"), some(letters(4097), "a\x00b", "\xff"), "at most 4096 bytes of UTF-8 without NUL"},
		spanOf("idle_timeout", 30*time.Second, 2*time.Hour),
	},
	"set_endpoint_proxy": {
		{
			"url", some("http://proxy:3128", "https://proxy.example.com:1", "http://[2001:db8::1]:65535", "http://"+strings.Repeat("a", 261-12)+":3128"),
			some(
				"", "proxy:3128", "http://proxy", "http://:3128", "http://proxy:0", "http://proxy:65536", "ftp://proxy:21", "http://proxy:3128/",
				"http://me:secret@proxy:3128", "http://proxy:3128?a", "http://proxy:3128#a", "http://proxy :3128", "http://"+strings.Repeat("a", 262-12)+":3128",
			),
			"http://host:port or https://host:port of at most 261 bytes",
		},
		spanOf("trial", time.Second, time.Hour),
	},
	"retrieve_files":               {countOf("paths", 1, 32), pathOf("paths[0]", false), numberOf("max_bytes", 0, 10<<30)},
	"retrieve_security_event_data": {countOf("event_ids", 1, 64), textUpTo("event_ids[0]", 1, 256)},
}

// below are the bounds of a message that is in the field parent.
func below(parent string, all []bound) []bound {
	out := slices.Clone(all)
	for i := range out {
		out[i].field = parent + "." + out[i].field
	}
	return out
}

var bounds = map[string][]bound{
	"Heartbeat":                 heartbeatBounds,
	"AgentMessage":              join([]bound{numberOf("id", 1, MaxNumber)}, below("heartbeat", heartbeatBounds)),
	"AgentMessage of a ping":    {numberOf("id", 1, MaxNumber)},
	"AgentMessage of an update": join([]bound{numberOf("id", 1, MaxNumber)}, below("action_update", updateBounds)),
	"ServerMessage of an ack":   join([]bound{numberOf("re", 0, MaxNumber)}, below("ack.problem", problemBounds)),
	"ActionUpdates":             join([]bound{countOf("updates", 1, 32)}, below("updates[0]", updateBounds)),
	"Acks":                      join([]bound{countOf("acks", 1, 32)}, below("acks[0].problem", problemBounds)),
	"Action":                    actionBounds,
	"Cancel": {
		idOf("fleet_id", false), idOf("identity_id", false), idOf("action_uid", false), timeOf("issued_at", false), timeOf("expires_at", false),
		hexOf("action_digest", 64, false), timeOf("action_issued_at", false),
	},
	"ActionResult": {
		idOf("fleet_id", false), idOf("identity_id", false), idOf("action_uid", false), hexOf("action_digest", 64, false), wordOf("reason"),
		textUpTo("message", 0, 1024), timeOf("started_at", true), timeOf("finished_at", false),
		countOf("files", 0, 64), textUpTo("files[0].path", 1, 256), hexOf("files[0].sha256", 64, true), numberOf("files[0].size", 0, MaxNumber),
		textUpTo("files[0].upload_id", 0, 256), textUpTo("files[0].error", 0, 256), idOf("files[0].quarantine_id", true),
		timeOf("files[0].quarantined_at", true),
		countOf("processes", 0, 128), timeOf("processes[0].start_time", true), textUpTo("processes[0].executable", 0, 256),
		number32("omitted", 0, math.MaxInt32),
	},
	"ServerMessage": join([]bound{numberOf("re", 0, MaxNumber)}, below("heartbeat_reply", replyBounds)),
	"ServerMessage of orders": join([]bound{
		timeOf("orders.server_time", true),
		countOf("orders.orders", 1, 32),
	}, below("orders", carriedBounds)),
	"ServerMessage of a problem": join([]bound{numberOf("re", 0, MaxNumber)}, below("problem", problemBounds)),
	"EnrollRequest": join([]bound{
		{"enrollment", nil, some(unset{}), "an envelope of type application/vnd.rollcall.enrollment.v1+json"},
		{"enrollment.payload_type", nil, some("", "application/vnd.rollcall.renewal.v1+json"), "an envelope of type application/vnd.rollcall.enrollment.v1+json"},
	}, envelopeBounds("enrollment", 5<<10, 1)),
	"RenewRequest": join([]bound{
		{"renewal", nil, some(unset{}), "an envelope of type application/vnd.rollcall.renewal.v1+json"},
		{"renewal.payload_type", nil, some("", "application/vnd.rollcall.enrollment.v1+json"), "an envelope of type application/vnd.rollcall.renewal.v1+json"},
	}, envelopeBounds("renewal", 5<<10, 1)),
	"Enrollment": {
		idOf("fleet_id", false), idOf("token_uid", false), bytesOf("csr", 1<<10), textUpTo("hostname", 1, 253), hexOf("machine_id", 64, true),
		versionOf("agent_version"), timeOf("created_at", true),
	},
	"Renewal": {
		idOf("fleet_id", false), idOf("identity_id", false), bytesOf("certificate", 2<<10), bytesOf("csr", 1<<10), timeOf("created_at", true),
	},
	"TrustReply": join([]bound{
		countOf("bundles", 0, 8),
		{"bundles[0].payload_type", nil, some("", "application/vnd.rollcall.beacon.v1+json"), "an envelope of type application/vnd.rollcall.trust.v1+json"},
	}, envelopeBounds("bundles[0]", 32<<10, 4)),
	"TrustBundle": {
		idOf("fleet_id", false), numberOf("version", 1, MaxNumber), timeOf("issued_at", false), countOf("keys", 2, 16), bytesOf("keys[0].spki", 2<<10),
		countOf("keys[0].uses", 1, 4), countOf("server_ca", 1, 4), bytesOf("server_ca[0]", 2<<10), countOf("agent_ca", 1, 4),
		bytesOf("agent_ca[0]", 2<<10), timeOf("reset_time_floor", true),
	},
	"CertificateReply": {bytesOf("certificate", 2<<10)},
	"HeartbeatReply":   replyBounds,
	"Beacon":           {idOf("fleet_id", false), timeOf("issued_at", false), numberOf("trust_version", 1, MaxNumber)},
	"Assignment": {
		idOf("fleet_id", false), idOf("identity_id", false), textUpTo("namespace", 1, 63), timeOf("issued_at", false), idOf("policy_id", true),
	},
	"Offer": {
		idOf("fleet_id", false), textUpTo("namespace", 1, 63), idOf("release_uid", false), textUpTo("version", 1, 39), numberOf("sequence", 1, MaxNumber),
		number32("share", 0, 10_000), timeOf("issued_at", false), timeOf("released_at", false), countOf("artifacts", 1, 16),
		textUpTo("artifacts[0].platform", 0, 64), hexOf("artifacts[0].sha256", 64, false), numberOf("artifacts[0].size", 1, 4<<30),
		textUpTo("artifacts[0].media_type", 1, 128),
		bound{"artifacts[0].signature", some("a\nb", letters(1<<10)), some("", letters(1<<10+1)), "1 to 1024 bytes"},
		countOf("withdrawn", 0, 16), textUpTo("withdrawn[0]", 1, 39),
	},
	"Policy": {
		idOf("fleet_id", false), idOf("policy_id", false), numberOf("revision", 1, MaxNumber), timeOf("issued_at", false),
		spanOf("heartbeat_interval", time.Second, 24*time.Hour), spanOf("report_interval", 10*time.Minute, 24*time.Hour),
		countOf("disabled_actions", 0, 12), textUpTo("disabled_actions[0]", 1, 64), countOf("isolation_allow", 0, 64),
		networkOf("isolation_allow[0]"), textUpTo("content_version", 0, 64), number32("content_delay_days", 0, 90),
		countOf("windows", 0, 14), countOf("windows[0].days", 0, 7), number32("windows[0].days[0]", 0, 6), number32("windows[0].start_minute", 0, 1439),
		number32("windows[0].duration_minutes", 15, 1440), textUpTo("windows[0].time_zone", 0, 64),
		spanOf("ping_interval", 15*time.Second, 4*time.Minute),
	},
}

// unbounded are the fields that any value of their type is good for.
var unbounded = map[string]bool{
	"ServerMessage of a problem.problem.retry_after": true, "ServerMessage of an ack.ack.problem.retry_after": true,
	"Acks.acks[0].problem.retry_after": true, "ActionResult.processes[0].pid": true,
	"Heartbeat.vitals.memory_total": true, "Heartbeat.vitals.memory_available": true, "Heartbeat.vitals.disk_total": true,
	"Heartbeat.vitals.disk_free": true, "Heartbeat.inventory.memory_total": true, "Heartbeat.inventory.disks[0].total": true,
	"Heartbeat.inventory.disks[0].free": true, "Policy.download_bytes_per_second": true,
}

func join[T any](lists ...[]T) (all []T) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// boundsOf a kind. What an action is told to do is in a field of its own, after which the kind is named.
func boundsOf(k checked) []bound {
	if field, ok := strings.CutPrefix(k.name, "Action with "); ok {
		return join(actionBounds, below(field, parameterBounds[field]))
	}
	return bounds[k.name]
}

func TestBounds(t *testing.T) {
	for _, k := range kinds {
		for _, b := range boundsOf(k) {
			for _, v := range b.good {
				m := k.full()
				set(t, m.ProtoReflect(), b.field, v)
				if err := k.check(m); err != nil {
					t.Errorf("%s.%s = %s, at its bound: %v", k.name, b.field, show(v), err)
				}
			}
			for _, v := range b.bad {
				m := k.full()
				set(t, m.ProtoReflect(), b.field, v)
				var e *BoundError
				err := k.check(m)
				if !errors.As(err, &e) {
					t.Errorf("%s.%s = %s, past its bound, is accepted: %v", k.name, b.field, show(v), err)
				} else if !strings.HasPrefix(b.field, e.Field) || !strings.HasPrefix(e.Bound, b.says) {
					t.Errorf("%s.%s = %s: the error is %q; want the field and %q", k.name, b.field, show(v), e, b.says)
				}
			}
		}
	}
}

// TestEveryFieldHasItsBound fails when a field is added to a message and not to the table.
func TestEveryFieldHasItsBound(t *testing.T) {
	for _, k := range kinds {
		known := map[string]bool{}
		for _, b := range boundsOf(k) {
			known[b.field] = true
		}
		for _, field := range fieldsOf(k.full().ProtoReflect(), "") {
			if inHeartbeat := strings.Replace(k.name+"."+field, "AgentMessage.heartbeat.", "Heartbeat.", 1); !known[field] && !unbounded[inHeartbeat] {
				t.Errorf("%s.%s has no row in the table of bounds", k.name, field)
			}
		}
	}
}

func TestBoundsOfWholes(t *testing.T) {
	h := fullHeartbeat()
	for len(h.Inventory.Interfaces) < MaxInterfaces {
		h.Inventory.Interfaces = append(h.Inventory.Interfaces, &agentv1.NetworkInterface{Name: strings.Repeat("n", 256), Mac: strings.Repeat("m", 200)})
	}
	h.Inventory.Model = ""
	h.Inventory.Interfaces[1].Addresses = []string{"x"}
	pad := MaxInventoryBytes - h.Inventory.SizeVT()
	for i := 2; pad > 0; i++ {
		n := min(pad, 256+3) - 3
		h.Inventory.Interfaces[i].Addresses = []string{strings.Repeat("a", max(n, 1))}
		pad = MaxInventoryBytes - h.Inventory.SizeVT()
		if pad < 10 && pad > 0 {
			h.Inventory.Kernel += strings.Repeat("k", pad)
			pad = 0
		}
	}
	if got := h.Inventory.SizeVT(); got != MaxInventoryBytes {
		t.Fatalf("the test made an inventory of %d bytes, not %d", got, MaxInventoryBytes)
	}
	if err := CheckHeartbeat(h); err != nil {
		t.Errorf("an inventory of the largest size: %v", err)
	}
	h.Inventory.Kernel += "k"
	if err := CheckHeartbeat(h); err == nil || err.Error() != "inventory must be at most 16384 bytes in protobuf" {
		t.Errorf("an inventory one byte larger: %v", err)
	}

	h = fullHeartbeat()
	h.Capabilities.Names = []string{"a", "b", "a"}
	if err := CheckHeartbeat(h); err == nil || err.Error() != "capabilities.names must be without repetition" {
		t.Errorf("a capability named twice: %v", err)
	}

	r := &agentv1.HeartbeatReply{}
	for range 24 {
		e := sealed("application/vnd.rollcall.later.v1+json")
		e.Payload = make([]byte, 32<<10)
		e.Payload = e.Payload[:len(e.Payload)-(e.SizeVT()-32<<10)]
		r.Orders = append(r.Orders, e)
	}
	if err := CheckHeartbeatReply(r); err != nil {
		t.Errorf("orders of 768 KiB: %v", err)
	}
	pushed := &agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{Orders: &agentv1.Orders{Orders: r.Orders}}}
	if err := CheckServerMessage(pushed); err != nil {
		t.Errorf("orders of 768 KiB, pushed: %v", err)
	}
	r.Orders[0].Payload = append(r.Orders[0].Payload, 0)
	if err := CheckServerMessage(pushed); err == nil || err.Error() != "orders.orders must be at most 786432 bytes together" {
		t.Errorf("orders of one byte more, pushed: %v", err)
	}
	if err := CheckHeartbeatReply(r); err == nil || err.Error() != "orders must be at most 786432 bytes together" {
		t.Errorf("orders of one byte more: %v", err)
	}
}

func TestErrorsNameFieldAndBound(t *testing.T) {
	h := fullHeartbeat()
	h.Inventory.Interfaces[0].Addresses = []string{"192.0.2.1", "192.0.2.2\n"}
	want := "inventory.interfaces[0].addresses[1] must be 1 to 256 bytes of UTF-8 without control characters"
	if err := CheckHeartbeat(h); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGoodHeartbeatCostsNoAllocation(t *testing.T) {
	h := fullHeartbeat()
	m := &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: h}}
	if n := testing.AllocsPerRun(100, func() { _, _ = CheckHeartbeat(h), CheckAgentMessage(m) }); n != 0 {
		t.Errorf("%v allocations for a good heartbeat", n)
	}
	m.Body = &agentv1.AgentMessage_ActionUpdate{ActionUpdate: fullUpdate()}
	if n := testing.AllocsPerRun(100, func() { _ = CheckAgentMessage(m) }); n != 0 {
		t.Errorf("%v allocations for a good update of an action", n)
	}
}

// fieldsOf lists the fields that m has set, each repeated field once more with [0] for its elements.
func fieldsOf(m protoreflect.Message, prefix string) (fields []string) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := prefix + string(fd.Name())
		if fd.IsList() {
			fields = append(fields, name)
			name += "[0]"
			v = v.List().Get(0)
		}
		switch {
		case fd.Message() == nil && fd.Kind() != protoreflect.BoolKind && fd.Kind() != protoreflect.EnumKind:
			fields = append(fields, name)
		case fd.Message() != nil && strings.HasPrefix(string(fd.Message().FullName()), "google.protobuf."):
			fields = append(fields, name)
		case fd.Message() != nil:
			fields = append(fields, fieldsOf(v.Message(), name+".")...)
		}
		return true
	})
	return fields
}

// set puts v into a field of m, which is named as in a BoundError.
func set(t *testing.T, m protoreflect.Message, field string, v any) {
	t.Helper()
	head, rest, deeper := strings.Cut(field, ".")
	name, element := strings.CutSuffix(head, "[0]")
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if fd == nil {
		t.Fatalf("%s has no field %s", m.Descriptor().Name(), name)
	}
	switch n, isCount := v.(count); {
	case deeper && element:
		set(t, m.Mutable(fd).List().Get(0).Message(), rest, v)
	case deeper:
		set(t, m.Mutable(fd).Message(), rest, v)
	case element:
		m.Mutable(fd).List().Set(0, value(fd, v))
	case isCount:
		repeat(m.Mutable(fd).List(), fd, int(n))
	case v == unset{}:
		m.Clear(fd)
	default:
		m.Set(fd, value(fd, v))
	}
}

// repeat makes l n elements long, by repeating the first; capabilities are told apart.
func repeat(l protoreflect.List, fd protoreflect.FieldDescriptor, n int) {
	original := l.Get(0)
	l.Truncate(0)
	for i := range n {
		if fd.FullName() == "rollcall.agent.v1.Capabilities.names" {
			l.Append(protoreflect.ValueOfString(fmt.Sprint("e", i)))
		} else {
			l.Append(original)
		}
	}
}

func value(fd protoreflect.FieldDescriptor, v any) protoreflect.Value {
	switch v := v.(type) {
	case letters:
		return protoreflect.ValueOfString(strings.Repeat("a", int(v)))
	case octets:
		return protoreflect.ValueOfBytes(make([]byte, v))
	case span_:
		return protoreflect.ValueOfMessage(durationpb.New(time.Duration(v)).ProtoReflect())
	case unix:
		return protoreflect.ValueOfMessage((&timestamppb.Timestamp{Seconds: int64(v)}).ProtoReflect())
	case interface{ ProtoReflect() protoreflect.Message }:
		return protoreflect.ValueOfMessage(v.ProtoReflect())
	}
	return protoreflect.ValueOf(v)
}

func show(v any) string {
	s := fmt.Sprintf("%T(%v)", v, v)
	return s[:min(len(s), 60)]
}
