package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"k8s.io/apimachinery/pkg/types"

	"github.com/rollcall-dev/rollcall/test/harness"
)

func list(n int, item func(i int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return "[" + strings.Join(items, ",") + "]"
}

func labels(n int) string {
	text := list(n, func(i int) string { return fmt.Sprintf("l%d: v", i) })
	return "{" + text[1:len(text)-1] + "}"
}

func network(i int) string { return fmt.Sprintf("10.%d.0.0/16", i) }

func quoted(s string) func(int) string {
	return func(i int) string { return fmt.Sprintf("%s%d", s, i) }
}

const (
	labelKeyWords   = "must be a label key such as device or example.com/site"
	labelValueWords = "must be the value of a label: letters, digits, '-', '_', '.', the first and the last a letter or a digit"
	urlWords        = "must be http://host:port or https://host:port, without credentials"
)

// manifest is an object of ours; body is the YAML of what it has besides its type and name.
type manifest struct{ short, name, body string }

// someSource is one that is as it must be.
var someSource = `{sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: c, key: k}}`

var accepted = slices.Concat(acceptedActions, []manifest{
	{"fep", "bare", ``},
	{"fep", strings.Repeat("a", 63), `spec: {}`},
	{"fep", "full", `
spec: {displayName: ` + strings.Repeat("ü", 63) + `, lifecycle: Suspended, isolation: Isolated, proxy: {mode: Manual, url: "http://proxy.example.com:3128"}}`},
	{"fep", "direct", `spec: {lifecycle: Decommissioned, isolation: Released, proxy: {mode: Direct}}`},
	{"fep", "v6", `spec: {lifecycle: Blocked, proxy: {mode: Manual, url: "https://[fd00::1]:443"}}`},
	{"fep", "active", `spec: {lifecycle: Active}`},
	{"epp", "bare", `spec: {}`},
	{"epp", "lowest", `
spec:
  selector: {}
  priority: 0
  heartbeat: {intervalSeconds: 1, missed: 2, reportIntervalSeconds: 600}
  commandChannel: {mode: HeartbeatOnly, pingIntervalSeconds: 15}
  logCollection: {mode: Disabled, retentionDays: 1}
  actions: {disabled: []}
  isolation: {allow: []}
  content: {mode: Immediate}
  upgrade: {mode: Disabled}
  transfer: {downloadKiBPerSecond: 16, maxUploadMiB: 1, quotaMiB: 1}`},
	{"epp", "highest", `
spec:
  selector:
    matchLabels: ` + labels(16) + `
    matchExpressions: ` + list(16, func(i int) string {
		return fmt.Sprintf("{key: example.com/k%d, operator: NotIn, values: %s}", i, list(32, quoted("v")))
	}) + `
  priority: 1000
  heartbeat: {intervalSeconds: 86400, missed: 100, reportIntervalSeconds: 86400}
  commandChannel: {mode: WebSocket, pingIntervalSeconds: 240}
  logCollection: {mode: Enabled, retentionDays: 365}
  actions: {disabled: [QuarantineFile, RestoreFile, TerminateProcess, IsolateEndpoint, CancelIsolation, LiveTerminal, SetEndpointProxy,
    DisableEndpointProxy, RetrieveFiles, RetrieveSecurityEventData, RetrieveSupportFile, PerformHeartbeat]}
  isolation: {allow: ` + list(64, network) + `}
  content: {mode: Delayed, delayDays: 90}
  upgrade:
    mode: Automatic
    windows: ` + list(14, func(int) string {
		return `{days: [Monday, Sunday], start: "23:59", durationMinutes: 1440, timeZone: Europe/Berlin}`
	}) + `
  transfer: {downloadKiBPerSecond: 1048576, maxUploadMiB: 102400, quotaMiB: 1048576}`},
	{"epp", "selecting", `
spec:
  selector:
    matchLabels: {example.com/site: ""}
    matchExpressions: [{key: a, operator: Exists}, {key: b, operator: DoesNotExist}, {key: ` + strings.Repeat("c", 63) + `, operator: In, values: ["", d]}]`},
	{"epp", "pinned", `spec: {content: {mode: Pinned, version: "1042"}, isolation: {allow: ["fd00::/8"]}}`},
	{"ept", "never-expires", `spec: {expiresAfterHours: 0}`},
	{"ept", strings.Repeat("a", 63), `
spec: {expiresAfterHours: 87600, maxUses: 1000000, replace: SameMachineOffline, approval: Manual, labels: ` + labels(16) + `}`},
	{"ept", "one", `spec: {expiresAfterHours: 1, maxUses: 1, endpointName: lobby-kiosk, approval: Automatic}`},
	{"ept", "never-replaces", `spec: {expiresAfterHours: 1, replace: Never, labels: {example.com/site: "", device: laptop}}`},
})

func TestAccepted(t *testing.T) {
	ns, client := harness.Cluster(t).Namespace(t), admin(t)
	for _, tc := range accepted {
		t.Run(tc.short+" "+tc.name, func(t *testing.T) {
			want := object(t, tc.short, tc.name, tc.body)
			got, err := client.of(tc.short, ns).Create(t.Context(), want, metav1.CreateOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict})
			if err != nil {
				t.Fatal(err)
			}
			wantSpec, _, _ := unstructured.NestedMap(want.Object, "spec")
			gotSpec, _, _ := unstructured.NestedMap(got.Object, "spec")
			if diff := cmp.Diff(asJSON(t, wantSpec), asJSON(t, gotSpec)); diff != "" {
				t.Errorf("the API server changed the spec (-want +got):\n%s", diff)
			}
		})
	}
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rejection is a manifest, and what the person who declares it is told.
type rejection struct{ short, name, body, want string }

// rejected has a row for every rule on a spec.
var rejected = slices.Concat(rejectedSelectors("epp", ""), rejectedSelectors("ctr", `version: "1", source: `+someSource+`, `), rejectedActions, []rejection{
	{"fep", "a.b", ``, `metadata: Invalid value: the name must be a DNS label of at most 63 characters: every client prints it`},
	{"fep", strings.Repeat("a", 64), ``, `metadata: Invalid value: the name must be a DNS label of at most 63 characters: every client prints it`},
	{"fep", "x", `spec: {displayName: ` + strings.Repeat("a", 64) + `}`, `spec.displayName: Too long: may not be more than 63 bytes`},
	{"fep", "x", `spec: {lifecycle: Retired}`, `spec.lifecycle: Unsupported value: "Retired": supported values: "Active", "Suspended", "Blocked", "Decommissioned"`},
	{"fep", "x", `spec: {isolation: "On"}`, `spec.isolation: Unsupported value: "On": supported values: "Isolated", "Released"`},
	{"fep", "x", `spec: {proxy: {}}`, `spec.proxy.mode: Required value`},
	{"fep", "x", `spec: {proxy: {mode: Auto}}`, `spec.proxy.mode: Unsupported value: "Auto": supported values: "Direct", "Manual"`},
	{"fep", "x", `spec: {proxy: {mode: Manual}}`, `spec.proxy: Invalid value: url goes with mode Manual, and only with it`},
	{"fep", "x", `spec: {proxy: {mode: Direct, url: "http://h:1"}}`, `spec.proxy: Invalid value: url goes with mode Manual, and only with it`},
	{"fep", "x", `spec: {proxy: {mode: Manual, url: "http://u:p@h:1"}}`, `spec.proxy.url: Invalid value: "http://u:p@h:1": ` + urlWords},
	{"fep", "x", `spec: {proxy: {mode: Manual, url: "http://h"}}`, `spec.proxy.url: Invalid value: "http://h": ` + urlWords},
	{"fep", "x", `spec: {proxy: {mode: Manual, url: "socks5://h:1"}}`, `spec.proxy.url: Invalid value: "socks5://h:1": ` + urlWords},
	{"fep", "x", `spec: {proxy: {mode: Manual, url: "http://h:1/path"}}`, `spec.proxy.url: Invalid value: "http://h:1/path": ` + urlWords},
	{"fep", "x", `spec: {proxy: {mode: Manual, url: "http://` + strings.Repeat("h", 253) + `:1"}}`, `spec.proxy.url: Too long: may not be more than 261 bytes`},

	{"ctr", "x", ``, `spec: Required value`},
	{"ctr", "x", `spec: {source: ` + someSource + `}`, `spec.version: Required value`},
	{"ctr", "x", `spec: {version: v1, source: ` + someSource + `}`, "spec.version: Invalid value: \"v1\": spec.version in body should match '^[0-9]{1,9}(\\.[0-9]{1,9}){0,3}$'"},
	{"ctr", "x", `spec: {version: "1.2.3.4.5", source: ` + someSource + `}`, "spec.version: Invalid value: \"1.2.3.4.5\": spec.version in body should match '^[0-9]{1,9}(\\.[0-9]{1,9}){0,3}$'"},
	{"ctr", "x", `spec: {version: "1"}`, `spec.source: Required value`},
	{"ctr", "x", `spec: {version: "1", state: Gone, source: ` + someSource + `}`, `spec.state: Unsupported value: "Gone": supported values: "Active", "Paused", "Withdrawn"`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment}}`, `spec.source: Invalid value: exactly one of the fields in [https configMap] must be set`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("A", 64) + `, signature: untrusted comment, configMap: {name: c, key: k}}}`, "spec.source.sha256: Invalid value: \"" + strings.Repeat("A", 64) + "\": spec.source.sha256 in body should match '^[0-9a-f]{64}$'"},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, https: {url: "http://example.com/x"}}}`, "spec.source.https.url: Invalid value: \"http://example.com/x\": spec.source.https.url in body should match '^https://[^@\\s]+$'"},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, https: {url: "https://me:secret@example.com/x"}}}`, "spec.source.https.url: Invalid value: \"https://me:secret@example.com/x\": spec.source.https.url in body should match '^https://[^@\\s]+$'"},

	{"ctr", "x", `spec: {version: "1", source: {signature: untrusted comment, configMap: {name: c, key: k}}}`, `spec.source.sha256: Required value`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 65) + `, signature: untrusted comment, configMap: {name: c, key: k}}}`, `spec.source.sha256: Too long: may not be more than 64 bytes`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, configMap: {name: c, key: k}}}`, `spec.source.signature: Required value`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: "", configMap: {name: c, key: k}}}`, `spec.source.signature: Invalid value: "": spec.source.signature in body should be at least 1 chars long`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: ` + strings.Repeat("s", 1025) + `, configMap: {name: c, key: k}}}`, `spec.source.signature: Too long: may not be more than 1024 bytes`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {key: k}}}`, `spec.source.configMap.name: Required value`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: "", key: k}}}`, `spec.source.configMap.name: Invalid value: "": spec.source.configMap.name in body should be at least 1 chars long`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: ` + strings.Repeat("n", 254) + `, key: k}}}`, `spec.source.configMap.name: Too long: may not be more than 253 bytes`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: c}}}`, `spec.source.configMap.key: Required value`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: c, key: ""}}}`, `spec.source.configMap.key: Invalid value: "": spec.source.configMap.key in body should be at least 1 chars long`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: c, key: ` + strings.Repeat("k", 254) + `}}}`, `spec.source.configMap.key: Too long: may not be more than 253 bytes`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, configMap: {name: C, key: k}}}`, "spec.source.configMap.name: Invalid value: \"C\": spec.source.configMap.name in body should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'"},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, https: {}}}`, `spec.source.https.url: Required value`},
	{"ctr", "x", `spec: {version: "1", source: {sha256: ` + strings.Repeat("a", 64) + `, signature: untrusted comment, https: {url: "https://` + strings.Repeat("h", 2048) + `"}}}`, `spec.source.https.url: Too long: may not be more than 2048 bytes`},
	{"ctr", "x", `spec: {version: "` + strings.Repeat("1", 40) + `", source: ` + someSource + `}`, `spec.version: Too long: may not be more than 39 bytes`},
	{"epp", "x", ``, `spec: Required value`},
	{"epp", "x", `spec: {priority: -1}`, `spec.priority: Invalid value: -1: spec.priority in body should be greater than or equal to 0`},
	{"epp", "x", `spec: {priority: 1001}`, `spec.priority: Invalid value: 1001: spec.priority in body should be less than or equal to 1000`},
	{"epp", "x", `spec: {heartbeat: {intervalSeconds: 0}}`, `spec.heartbeat.intervalSeconds: Invalid value: 0: spec.heartbeat.intervalSeconds in body should be greater than or equal to 1`},
	{"epp", "x", `spec: {heartbeat: {intervalSeconds: 86401}}`, `spec.heartbeat.intervalSeconds: Invalid value: 86401: spec.heartbeat.intervalSeconds in body should be less than or equal to 86400`},
	{"epp", "x", `spec: {heartbeat: {missed: 1}}`, `spec.heartbeat.missed: Invalid value: 1: spec.heartbeat.missed in body should be greater than or equal to 2`},
	{"epp", "x", `spec: {heartbeat: {missed: 101}}`, `spec.heartbeat.missed: Invalid value: 101: spec.heartbeat.missed in body should be less than or equal to 100`},
	{"epp", "x", `spec: {heartbeat: {reportIntervalSeconds: 599}}`, `spec.heartbeat.reportIntervalSeconds: Invalid value: 599: spec.heartbeat.reportIntervalSeconds in body should be greater than or equal to 600`},
	{"epp", "x", `spec: {heartbeat: {reportIntervalSeconds: 86401}}`, `spec.heartbeat.reportIntervalSeconds: Invalid value: 86401: spec.heartbeat.reportIntervalSeconds in body should be less than or equal to 86400`},
	{"epp", "x", `spec: {commandChannel: {}}`, `spec.commandChannel.mode: Required value`},
	{"epp", "x", `spec: {commandChannel: {mode: Both}}`, `spec.commandChannel.mode: Unsupported value: "Both": supported values: "WebSocket", "HeartbeatOnly"`},
	{"epp", "x", `spec: {commandChannel: {mode: WebSocket, pingIntervalSeconds: 14}}`, `spec.commandChannel.pingIntervalSeconds: Invalid value: 14: spec.commandChannel.pingIntervalSeconds in body should be greater than or equal to 15`},
	{"epp", "x", `spec: {commandChannel: {mode: WebSocket, pingIntervalSeconds: 241}}`, `spec.commandChannel.pingIntervalSeconds: Invalid value: 241: spec.commandChannel.pingIntervalSeconds in body should be less than or equal to 240`},
	{"epp", "x", `spec: {logCollection: {}}`, `spec.logCollection.mode: Required value`},
	{"epp", "x", `spec: {logCollection: {mode: "On"}}`, `spec.logCollection.mode: Unsupported value: "On": supported values: "Enabled", "Disabled"`},
	{"epp", "x", `spec: {logCollection: {mode: Enabled, retentionDays: 0}}`, `spec.logCollection.retentionDays: Invalid value: 0: spec.logCollection.retentionDays in body should be greater than or equal to 1`},
	{"epp", "x", `spec: {logCollection: {mode: Enabled, retentionDays: 366}}`, `spec.logCollection.retentionDays: Invalid value: 366: spec.logCollection.retentionDays in body should be less than or equal to 365`},
	{"epp", "x", `spec: {actions: {}}`, `spec.actions.disabled: Required value`},
	{
		"epp", "x", `spec: {actions: {disabled: [Reboot]}}`,
		`spec.actions.disabled[0]: Unsupported value: "Reboot": supported values: "QuarantineFile", "RestoreFile", "TerminateProcess", "IsolateEndpoint", "CancelIsolation", "LiveTerminal", "SetEndpointProxy", "DisableEndpointProxy", "RetrieveFiles", "RetrieveSecurityEventData", "RetrieveSupportFile", "PerformHeartbeat"`,
	},
	{"epp", "x", `spec: {actions: {disabled: [LiveTerminal, LiveTerminal]}}`, `spec.actions.disabled[1]: Duplicate value: "LiveTerminal"`},
	{"epp", "x", `spec: {actions: {disabled: ` + list(13, func(int) string { return "LiveTerminal" }) + `}}`, `spec.actions.disabled: Too many: 13: must have at most 12 items`},
	{"epp", "x", `spec: {isolation: {}}`, `spec.isolation.allow: Required value`},
	{"epp", "x", `spec: {isolation: {allow: [10.0.0.1]}}`, `spec.isolation.allow[0]: Invalid value: "10.0.0.1": must be a network such as 10.0.0.0/8`},
	{"epp", "x", `spec: {isolation: {allow: [10.0.0.0/8, 10.0.0.0/8]}}`, `spec.isolation.allow[1]: Duplicate value: "10.0.0.0/8"`},
	{"epp", "x", `spec: {isolation: {allow: ["` + strings.Repeat("0", 44) + `"]}}`, `spec.isolation.allow[0]: Too long: may not be more than 43 bytes`},
	{"epp", "x", `spec: {isolation: {allow: ` + list(65, network) + `}}`, `spec.isolation.allow: Too many: 65: must have at most 64 items`},
	{"epp", "x", `spec: {content: {}}`, `spec.content.mode: Required value`},
	{"epp", "x", `spec: {content: {mode: Latest}}`, `spec.content.mode: Unsupported value: "Latest": supported values: "Immediate", "Delayed", "Pinned"`},
	{"epp", "x", `spec: {content: {mode: Delayed}}`, `spec.content: Invalid value: delayDays goes with Delayed, version with Pinned, and nothing with Immediate`},
	{"epp", "x", `spec: {content: {mode: Pinned, version: "1", delayDays: 1}}`, `spec.content: Invalid value: delayDays goes with Delayed, version with Pinned, and nothing with Immediate`},
	{"epp", "x", `spec: {content: {mode: Immediate, version: "1"}}`, `spec.content: Invalid value: delayDays goes with Delayed, version with Pinned, and nothing with Immediate`},
	{"epp", "x", `spec: {content: {mode: Delayed, delayDays: 0}}`, `spec.content.delayDays: Invalid value: 0: spec.content.delayDays in body should be greater than or equal to 1`},
	{"epp", "x", `spec: {content: {mode: Delayed, delayDays: 91}}`, `spec.content.delayDays: Invalid value: 91: spec.content.delayDays in body should be less than or equal to 90`},
	{"epp", "x", `spec: {content: {mode: Pinned, version: "` + strings.Repeat("1", 40) + `"}}`, `spec.content.version: Too long: may not be more than 39 bytes`},
	{"epp", "x", `spec: {upgrade: {}}`, `spec.upgrade.mode: Required value`},
	{"epp", "x", `spec: {upgrade: {mode: Manual}}`, `spec.upgrade.mode: Unsupported value: "Manual": supported values: "Disabled", "Automatic"`},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: ` + list(15, func(int) string { return `{start: "22:30", durationMinutes: 60}` }) + `}}`,
		`spec.upgrade.windows: Too many: 15: must have at most 14 items`,
	},
	{"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{durationMinutes: 60}]}}`, `spec.upgrade.windows[0].start: Required value`},
	{"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "24:00", durationMinutes: 60}]}}`, `spec.upgrade.windows[0].start: Invalid value: "24:00": must be a time of day such as 22:30`},
	{"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "22:30h", durationMinutes: 60}]}}`, `spec.upgrade.windows[0].start: Too long: may not be more than 5 bytes`},
	{"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "22:30"}]}}`, `spec.upgrade.windows[0].durationMinutes: Required value`},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "22:30", durationMinutes: 14}]}}`,
		`spec.upgrade.windows[0].durationMinutes: Invalid value: 14: spec.upgrade.windows[0].durationMinutes in body should be greater than or equal to 15`,
	},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "22:30", durationMinutes: 1441}]}}`,
		`spec.upgrade.windows[0].durationMinutes: Invalid value: 1441: spec.upgrade.windows[0].durationMinutes in body should be less than or equal to 1440`,
	},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{start: "22:30", durationMinutes: 60, timeZone: "` + strings.Repeat("a", 65) + `"}]}}`,
		`spec.upgrade.windows[0].timeZone: Too long: may not be more than 64 bytes`,
	},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{days: [Funday], start: "22:30", durationMinutes: 60}]}}`,
		`spec.upgrade.windows[0].days[0]: Unsupported value: "Funday": supported values: "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"`,
	},
	{"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{days: [Monday, Monday], start: "22:30", durationMinutes: 60}]}}`, `spec.upgrade.windows[0].days[1]: Duplicate value: "Monday"`},
	{
		"epp", "x", `spec: {upgrade: {mode: Automatic, windows: [{days: ` + list(8, func(int) string { return "Monday" }) + `, start: "22:30", durationMinutes: 60}]}}`,
		`spec.upgrade.windows[0].days: Too many: 8: must have at most 7 items`,
	},
	{"epp", "x", `spec: {transfer: {downloadKiBPerSecond: 15}}`, `spec.transfer.downloadKiBPerSecond: Invalid value: 15: spec.transfer.downloadKiBPerSecond in body should be greater than or equal to 16`},
	{"epp", "x", `spec: {transfer: {downloadKiBPerSecond: 1048577}}`, `spec.transfer.downloadKiBPerSecond: Invalid value: 1048577: spec.transfer.downloadKiBPerSecond in body should be less than or equal to 1048576`},
	{"epp", "x", `spec: {transfer: {maxUploadMiB: 0}}`, `spec.transfer.maxUploadMiB: Invalid value: 0: spec.transfer.maxUploadMiB in body should be greater than or equal to 1`},
	{"epp", "x", `spec: {transfer: {maxUploadMiB: 102401}}`, `spec.transfer.maxUploadMiB: Invalid value: 102401: spec.transfer.maxUploadMiB in body should be less than or equal to 102400`},
	{"epp", "x", `spec: {transfer: {quotaMiB: 0}}`, `spec.transfer.quotaMiB: Invalid value: 0: spec.transfer.quotaMiB in body should be greater than or equal to 1`},
	{"epp", "x", `spec: {transfer: {quotaMiB: 1048577}}`, `spec.transfer.quotaMiB: Invalid value: 1048577: spec.transfer.quotaMiB in body should be less than or equal to 1048576`},

	{"ept", "x", ``, `spec: Required value`},
	{"ept", strings.Repeat("a", 64), `spec: {expiresAfterHours: 1}`, `metadata: Invalid value: the name may have 63 characters at most: its Secret is named after it`},
	{"ept", "x", `spec: {}`, `spec.expiresAfterHours: Required value`},
	{"ept", "x", `spec: {expiresAfterHours: -1}`, `spec.expiresAfterHours: Invalid value: -1: spec.expiresAfterHours in body should be greater than or equal to 0`},
	{"ept", "x", `spec: {expiresAfterHours: 87601}`, `spec.expiresAfterHours: Invalid value: 87601: spec.expiresAfterHours in body should be less than or equal to 87600`},
	{"ept", "x", `spec: {expiresAfterHours: 1, maxUses: 0}`, `spec.maxUses: Invalid value: 0: spec.maxUses in body should be greater than or equal to 1`},
	{"ept", "x", `spec: {expiresAfterHours: 1, maxUses: 1000001}`, `spec.maxUses: Invalid value: 1000001: spec.maxUses in body should be less than or equal to 1000000`},
	{"ept", "x", `spec: {expiresAfterHours: 1, endpointName: a.b}`, `spec.endpointName: Invalid value: "a.b": must be a DNS label, as the name of an Endpoint is`},
	{"ept", "x", `spec: {expiresAfterHours: 1, endpointName: Kiosk}`, `spec.endpointName: Invalid value: "Kiosk": spec.endpointName in body should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'`},
	{"ept", "x", `spec: {expiresAfterHours: 1, endpointName: ""}`, `spec.endpointName: Invalid value: "": spec.endpointName in body should be at least 1 chars long`},
	{"ept", "x", `spec: {expiresAfterHours: 1, endpointName: ` + strings.Repeat("a", 64) + `}`, `spec.endpointName: Too long: may not be more than 63 bytes`},
	{"ept", "x", `spec: {expiresAfterHours: 1, endpointName: a, replace: Never}`, `spec: Invalid value: replace goes without endpointName: a token for one Endpoint always may`},
	{"ept", "x", `spec: {expiresAfterHours: 1, replace: Always}`, `spec.replace: Unsupported value: "Always": supported values: "Never", "SameMachineOffline"`},
	{"ept", "x", `spec: {expiresAfterHours: 1, approval: None}`, `spec.approval: Unsupported value: "None": supported values: "Automatic", "Manual"`},
	{"ept", "x", `spec: {expiresAfterHours: 1, labels: ` + labels(17) + `}`, `spec.labels: Too many: 17: must have at most 16 items`},
	{"ept", "x", `spec: {expiresAfterHours: 1, labels: {"a b": c}}`, `spec.labels: Invalid value: each key must be a label key such as device or example.com/site`},
	{"ept", "x", `spec: {expiresAfterHours: 1, labels: {a: "b c"}}`, `spec.labels[a]: Invalid value: "b c": ` + labelValueWords},
	{"ept", "x", `spec: {expiresAfterHours: 1, labels: {a: ` + strings.Repeat("b", 64) + `}}`, `spec.labels.a: Too long: may not be more than 63 bytes`},
})

// rejectedSelectors are the rows of a kind whose spec has a selector; more is what its spec needs besides.
func rejectedSelectors(short, more string) []rejection {
	row := func(selector, want string) rejection {
		return rejection{short, "x", `spec: {` + more + `selector: ` + selector + `}`, "spec.selector." + want}
	}
	const first = "matchExpressions[0]"
	return []rejection{
		row(`{matchLabels: `+labels(17)+`}`, `matchLabels: Too many: 17: must have at most 16 items`),
		row(`{matchLabels: {"a b": c}}`, `matchLabels: Invalid value: each key must be a label key such as device or example.com/site`),
		row(`{matchLabels: {a: "b c"}}`, `matchLabels[a]: Invalid value: "b c": `+labelValueWords),
		row(`{matchLabels: {a: `+strings.Repeat("b", 64)+`}}`, `matchLabels.a: Too long: may not be more than 63 bytes`),
		row(`{matchExpressions: `+list(17, func(int) string { return "{key: a, operator: Exists}" })+`}`, `matchExpressions: Too many: 17: must have at most 16 items`),
		row(`{matchExpressions: [{operator: Exists}]}`, first+`.key: Required value`),
		row(`{matchExpressions: [{key: "", operator: Exists}]}`, first+`.key: Invalid value: "": spec.selector.matchExpressions[0].key in body should be at least 1 chars long`),
		row(`{matchExpressions: [{key: "a b", operator: Exists}]}`, first+`.key: Invalid value: "a b": `+labelKeyWords),
		row(`{matchExpressions: [{key: `+strings.Repeat("a", 318)+`, operator: Exists}]}`, first+`.key: Too long: may not be more than 317 bytes`),
		row(`{matchExpressions: [{key: a}]}`, first+`.operator: Required value`),
		row(`{matchExpressions: [{key: a, operator: Gt, values: ["1"]}]}`, first+`.operator: Unsupported value: "Gt": supported values: "In", "NotIn", "Exists", "DoesNotExist"`),
		row(`{matchExpressions: [{key: a, operator: In}]}`, first+`: Invalid value: values goes with In and NotIn, and only with them`),
		row(`{matchExpressions: [{key: a, operator: Exists, values: [b]}]}`, first+`: Invalid value: values goes with In and NotIn, and only with them`),
		row(`{matchExpressions: [{key: a, operator: In, values: []}]}`, first+`.values: Invalid value: 0: spec.selector.matchExpressions[0].values in body should have at least 1 items`),
		row(`{matchExpressions: [{key: a, operator: In, values: `+list(33, quoted("v"))+`}]}`, first+`.values: Too many: 33: must have at most 32 items`),
		row(`{matchExpressions: [{key: a, operator: In, values: [b, b]}]}`, first+`.values[1]: Duplicate value: "b"`),
		row(`{matchExpressions: [{key: a, operator: In, values: ["-"]}]}`, first+`.values[0]: Invalid value: "-": `+labelValueWords),
		row(`{matchExpressions: [{key: a, operator: In, values: [`+strings.Repeat("b", 64)+`]}]}`, first+`.values[0]: Too long: may not be more than 63 bytes`),
	}
}

func TestRejected(t *testing.T) {
	ns, client := harness.Cluster(t).Namespace(t), admin(t)
	for _, tc := range rejected {
		t.Run(tc.short+" "+tc.want, func(t *testing.T) {
			_, err := client.of(tc.short, ns).Create(t.Context(), object(t, tc.short, tc.name, tc.body), metav1.CreateOptions{DryRun: dryRun})
			if words := told(err); !slices.Contains(words, tc.want) {
				t.Errorf("told: %s\nwant: %s", strings.Join(words, "\n      "), tc.want)
			}
		})
	}
}

// told is what the API server says of each field.
func told(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return []string{fmt.Sprint(err)}
	}
	var words []string
	for _, cause := range status.Status().Details.Causes {
		words = append(words, cause.Field+": "+cause.Message)
	}
	return words
}

// TestEveryRuleOnASpecIsTried finds the rules of the schemas in the table above: a rule that is added wants its row.
func TestEveryRuleOnASpecIsTried(t *testing.T) {
	index := regexp.MustCompile(`\[\d+\]`)
	for short := range kinds {
		var tried []string
		for _, tc := range rejected {
			if tc.short == short {
				tried = append(tried, index.ReplaceAllString(tc.want, "[]"))
			}
		}
		for _, f := range fields(t, short) {
			if !strings.HasPrefix(f.path, "spec") {
				continue
			}
			for _, words := range rules(f) {
				if !slices.ContainsFunc(tried, func(want string) bool {
					return mapKey.ReplaceAllString(want[:strings.Index(want, ": ")], "{}") == f.path && strings.Contains(want, words)
				}) {
					t.Errorf("%s.%s: nothing in the table is told %q", short, f.path, words)
				}
			}
		}
	}
}

// mapKey is how causes name a value of a map: by [key] or by .key, and all keys in the table are one letter.
var mapKey = regexp.MustCompile(`\[[a-z]\]$|\.[a-z]$`)

var literals = regexp.MustCompile(`'([^']*)'`)

// rules are the words by which each rule on a field speaks.
func rules(f field) []string {
	var words []string
	add := func(is bool, text string) {
		if is {
			words = append(words, text)
		}
	}
	s := f.schema
	add(f.required, "Required value")
	add(len(s.Enum) > 0, "Unsupported value")
	add(s.Minimum != nil, "greater than or equal")
	add(s.Maximum != nil, "less than or equal")
	add(s.MaxItems != nil || s.MaxProperties != nil, "must have at most")
	add(s.MinItems != nil, "at least 1 items")
	add(s.XListType != nil && *s.XListType == "set", "")
	for _, part := range append([]apiextensionsv1.JSONSchemaProps{*s}, s.AllOf...) {
		add(part.MaxLength != nil, "Too long")
		add(part.MinLength != nil, "at least 1 chars")
		add(part.Pattern != "", "should match")
	}
	for _, rule := range s.XValidations {
		says := rule.Message
		for _, literal := range literals.FindAllStringSubmatch(rule.MessageExpression, -1) {
			if len(literal[1]) > len(says) { // the words of it, and not a quotation mark
				says = literal[1]
			}
		}
		add(!strings.Contains(rule.Rule, "oldSelf"), says)
	}
	return words
}

// A version means one thing: another source is another release.
func TestVersionAndSourceOfAReleaseAreImmutable(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	who := person(t, ns, []string{"rollcall-releases"})
	const path = "/spec/source"
	spec := `spec: {version: "1", source: ` + someSource + `}`
	if _, err := who.of("ctr", ns).Create(t.Context(), object(t, "ctr", "x", spec), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for patch, want := range map[string]string{
		`[{"op":"replace","path":"/spec/version","value":"1.0"}]`:                           "version is immutable: create another release",
		`[{"op":"replace","path":"` + path + `/configMap/key","value":"other"}]`:            "source is immutable: create another release",
		`[{"op":"replace","path":"` + path + `/signature","value":"untrusted comment: 2"}]`: "source is immutable: create another release",
		`[{"op":"add","path":"/spec/state","value":"Withdrawn"}]`:                           "",
	} {
		_, err := who.of("ctr", ns).Patch(t.Context(), "x", types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
		if said := strings.Join(told(err), "\n"); (want == "") != (err == nil) || !strings.Contains(said, want) {
			t.Errorf("%s: told %q, want %q", patch, said, want)
		}
	}
}

// What cannot be changed cannot be added or removed either.
func TestEndpointNameOfATokenIsImmutable(t *testing.T) {
	ns, client := harness.Cluster(t).Namespace(t), admin(t)
	person := person(t, ns, []string{"rollcall-admin"})
	const with, without = `spec: {expiresAfterHours: 1, endpointName: kiosk}`, `spec: {expiresAfterHours: 1}`
	const refusal = `spec: Invalid value: endpointName is immutable: create another token`
	for _, tc := range []struct{ name, from, to, want string }{
		{"added", without, with, refusal},
		{"removed", with, without, refusal},
		{"changed", with, `spec: {expiresAfterHours: 1, endpointName: other}`, refusal},
		{"kept", with, `spec: {expiresAfterHours: 0, endpointName: kiosk, maxUses: 3, approval: Manual, labels: {a: b}}`, ""},
		{"absent", without, `spec: {expiresAfterHours: 5, replace: SameMachineOffline}`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := person.of("ept", ns).Create(t.Context(), object(t, "ept", tc.name, tc.from), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			was, err := client.of("ept", ns).Get(t.Context(), tc.name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			changed := object(t, "ept", tc.name, tc.to)
			changed.SetResourceVersion(was.GetResourceVersion())
			_, err = person.of("ept", ns).Update(t.Context(), changed, metav1.UpdateOptions{DryRun: dryRun})
			switch words := told(err); {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && !slices.Contains(words, tc.want):
				t.Errorf("told: %s\nwant: %s", words, tc.want)
			}
		})
	}
}

// What kubectl prints is one sentence that says what to do.
func TestKubectlSaysWhatIsWrong(t *testing.T) {
	api := harness.Cluster(t)
	ns := api.Namespace(t)
	for _, tc := range []struct{ manifest, want string }{
		{
			"apiVersion: rollcall.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: web.example.com}\n",
			`The Endpoint "web.example.com" is invalid: metadata: Invalid value: the name must be a DNS label of at most 63 characters: every client prints it`,
		},
		{
			"apiVersion: rollcall.dev/v1alpha1\nkind: EndpointPolicy\nmetadata: {name: x}\nspec: {content: {mode: Pinned}}\n",
			`The EndpointPolicy "x" is invalid: spec.content: Invalid value: delayDays goes with Delayed, version with Pinned, and nothing with Immediate`,
		},
		{
			"apiVersion: rollcall.dev/v1alpha1\nkind: EndpointPolicy\nmetadata: {name: x}\nspec: {heartbeats: {}}\n",
			`strict decoding error: unknown field "spec.heartbeats"`,
		},
		{
			"apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: stop-it}\nspec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {pid: 48113}}\n",
			`The EndpointAction "stop-it" is invalid: spec.terminateProcess: Invalid value: pid and startTime go together: a PID alone may have been reused`,
		},
	} {
		_, err := api.TryKubectl(t, tc.manifest, "-n", ns, "create", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("kubectl: %v\nwant: %s", err, tc.want)
		}
	}
}
