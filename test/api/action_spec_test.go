package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rollcall-dev/rollcall/test/harness"
)

const digest = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"

// acceptedActions have every field of the spec between them: TestSpecOfAnActionIsImmutable takes each from here.
var acceptedActions = []manifest{
	{"epa", "bare", `spec: {type: PerformHeartbeat, endpointName: devbox}`},
	{"epa", strings.Repeat("a", 63), `
spec:
  type: DisableEndpointProxy
  endpointName: ` + strings.Repeat("a", 63) + `
  reason: ` + strings.Repeat("ü", 256) + `
  startingDeadlineSeconds: 7776000
  activeDeadlineSeconds: 86400
  cancel: true
  ttlSecondsAfterFinished: 31536000`},
	{"epa", "lowest", `
spec:
  type: TerminateProcess
  endpointName: a
  startingDeadlineSeconds: 5
  activeDeadlineSeconds: 1
  cancel: false
  ttlSecondsAfterFinished: 0
  terminateProcess: {pid: 2, startTime: "2026-03-01T12:00:00.000001Z", gracePeriodSeconds: 0, scope: Process}`},
	{"epa", "all-laptops", `
spec: {type: PerformHeartbeat, maxParallel: 1, maxFailures: 0, selector: {matchLabels: {device: laptop}}}`},
	{"epa", "all-that-have-a-site", `
spec:
  type: CancelIsolation
  maxParallel: 10000
  maxFailures: 100000
  selector:
    matchLabels: {device: laptop}
    matchExpressions: [{key: example.com/site, operator: In, values: [berlin, paris]}, {key: owner, operator: Exists}]`},
	{"epa", "everywhere", `
spec:
  type: TerminateProcess
  selector: {matchLabels: {device: laptop}}
  terminateProcess: {executable: /usr/bin/sleep, sha256: ` + digest + `, scope: Tree, gracePeriodSeconds: 300}`},
	{"epa", "one-process", `
spec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {pid: 4194304, startTime: "2026-03-01T12:00:00Z", executable: /usr/bin/sleep}}`},
	{"epa", "by-digest", `spec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {sha256: ` + digest + `}}`},
	{"epa", "quarantine", `
spec: {type: QuarantineFile, endpointName: devbox, reason: "INC-4711", quarantineFile: {path: /tmp/eicar.com, sha256: ` + digest + `}}`},
	{"epa", "restore", `
spec: {type: RestoreFile, endpointName: devbox, restoreFile: {quarantineID: 6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5f, path: /tmp/a, overwrite: Always}}`},
	{"epa", "isolate", `spec: {type: IsolateEndpoint, endpointName: devbox, isolateEndpoint: {allow: ` + list(32, network) + `}}`},
	{"epa", "isolate-more", `spec: {type: IsolateEndpoint, endpointName: devbox, isolateEndpoint: {}}`},
	{"epa", "isolate-as-the-policy-says", `spec: {type: IsolateEndpoint, endpointName: devbox}`},
	{"epa", "terminal", `
spec: {type: LiveTerminal, endpointName: devbox, liveTerminal: {user: root, command: ` + list(64, quoted("word")) + `, idleTimeoutSeconds: 30}}`},
	{"epa", "terminal-as-it-comes", `spec: {type: LiveTerminal, endpointName: devbox}`},
	{"epa", "long-terminal", `spec: {type: LiveTerminal, endpointName: devbox, liveTerminal: {idleTimeoutSeconds: 7200}}`},
	{"epa", "proxy", `spec: {type: SetEndpointProxy, endpointName: devbox, setEndpointProxy: {url: "http://proxy.example.com:3128"}}`},
	{"epa", "retrieve", `spec: {type: RetrieveFiles, endpointName: devbox, retrieveFiles: {paths: ` + list(32, quoted("/var/log/*")) + `, maxBytes: 10737418240}}`},
	{"epa", "retrieve-a-byte", `spec: {type: RetrieveFiles, endpointName: devbox, retrieveFiles: {paths: [/etc/hosts], maxBytes: 1}}`},
	{"epa", "events", `
spec: {type: RetrieveSecurityEventData, endpointName: devbox, retrieveSecurityEventData: {eventIDs: ` + list(64, quoted("e")) + `}}`},
	{"epa", "support", `spec: {type: RetrieveSupportFile, endpointName: devbox}`},
}

// on is the body of an action on one endpoint; parameters is more of its spec.
func on(kind, parameters string) string {
	return `spec: {type: ` + kind + `, endpointName: devbox, ` + parameters + `}`
}

// outside are the two rows of a number's bounds; body has %d where the number goes.
func outside(path string, low, high int, body string) []rejection {
	row := func(value int, words string, bound int) rejection {
		return rejection{"epa", "x", fmt.Sprintf(body, value), fmt.Sprintf("%s: Invalid value: %d: %s in body should be %s than or equal to %d", path, value, path, words, bound)}
	}
	return []rejection{row(low-1, "greater", low), row(high+1, "less", high)}
}

const (
	parametersWords = " takes exactly its own parameter block; types without parameters take none"
	oneOfWords      = "exactly one of the fields in [endpointName selector] must be set"
	pathWords       = "Too long: may not be more than 4096 bytes"
)

var (
	tooLong         = func(n int) string { return strings.Repeat("a", n+1) }
	rejectedActions = slices.Concat(
		rejectedSelectors("epa", "type: PerformHeartbeat, "),
		outside("spec.maxParallel", 1, 10000, `spec: {type: PerformHeartbeat, selector: {matchLabels: {a: b}}, maxParallel: %d}`),
		outside("spec.maxFailures", 0, 100000, `spec: {type: PerformHeartbeat, selector: {matchLabels: {a: b}}, maxFailures: %d}`),
		outside("spec.startingDeadlineSeconds", 5, 7776000, on("PerformHeartbeat", `startingDeadlineSeconds: %d`)),
		outside("spec.activeDeadlineSeconds", 1, 86400, on("PerformHeartbeat", `activeDeadlineSeconds: %d`)),
		outside("spec.ttlSecondsAfterFinished", 0, 31536000, on("PerformHeartbeat", `ttlSecondsAfterFinished: %d`)),
		outside("spec.terminateProcess.pid", 2, 4194304, on("TerminateProcess", `terminateProcess: {startTime: "2026-03-01T12:00:00Z", pid: %d}`)),
		outside("spec.terminateProcess.gracePeriodSeconds", 0, 300, on("TerminateProcess", `terminateProcess: {executable: /a, gracePeriodSeconds: %d}`)),
		outside("spec.liveTerminal.idleTimeoutSeconds", 30, 7200, on("LiveTerminal", `liveTerminal: {idleTimeoutSeconds: %d}`)),
		outside("spec.retrieveFiles.maxBytes", 1, 10737418240, on("RetrieveFiles", `retrieveFiles: {paths: [/a], maxBytes: %d}`)),
		[]rejection{
			{"epa", "x", ``, `spec: Required value`},
			{"epa", tooLong(63), on("PerformHeartbeat", ``), `metadata: Invalid value: the name may have 63 characters at most`},
			{"epa", "x", `spec: {endpointName: devbox}`, `spec.type: Required value`},
			{
				"epa", "x", on("Reboot", ``),
				`spec.type: Unsupported value: "Reboot": supported values: "QuarantineFile", "RestoreFile", "TerminateProcess", "IsolateEndpoint", "CancelIsolation", "LiveTerminal", "SetEndpointProxy", "DisableEndpointProxy", "RetrieveFiles", "RetrieveSecurityEventData", "RetrieveSupportFile", "PerformHeartbeat"`,
			},
			{"epa", "x", `spec: {type: PerformHeartbeat}`, `spec: Invalid value: ` + oneOfWords},
			{"epa", "x", on("PerformHeartbeat", `selector: {matchLabels: {a: b}}`), `spec: Invalid value: ` + oneOfWords},
			{"epa", "x", on("PerformHeartbeat", `maxParallel: 1`), `spec: Invalid value: maxParallel and maxFailures go with selector`},
			{"epa", "x", on("PerformHeartbeat", `maxFailures: 1`), `spec: Invalid value: maxParallel and maxFailures go with selector`},
			{"epa", "x", `spec: {type: PerformHeartbeat, selector: {}}`, `spec: Invalid value: ` + emptySelectorWords},
			{"epa", "x", `spec: {type: PerformHeartbeat, selector: {matchLabels: {}, matchExpressions: []}}`, `spec: Invalid value: ` + emptySelectorWords},
			{"epa", "x", `spec: {type: LiveTerminal, selector: {matchLabels: {a: b}}}`, `spec: Invalid value: a terminal is for one endpoint: name it in endpointName`},
			{"epa", "x", on("TerminateProcess", ``), `spec: Invalid value: type TerminateProcess` + parametersWords},
			{"epa", "x", on("CancelIsolation", `isolateEndpoint: {}`), `spec: Invalid value: type CancelIsolation` + parametersWords},
			{"epa", "x", `spec: {type: PerformHeartbeat, endpointName: ""}`, `spec.endpointName: Invalid value: "": spec.endpointName in body should be at least 1 chars long`},
			{"epa", "x", `spec: {type: PerformHeartbeat, endpointName: a.b}`, `spec.endpointName: Invalid value: "a.b": must be a DNS label, as the name of an Endpoint is`},
			{"epa", "x", `spec: {type: PerformHeartbeat, endpointName: Kiosk}`, `spec.endpointName: Invalid value: "Kiosk": spec.endpointName in body should match '^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'`},
			{"epa", "x", `spec: {type: PerformHeartbeat, endpointName: ` + tooLong(63) + `}`, `spec.endpointName: Too long: may not be more than 63 bytes`},
			{"epa", "x", on("PerformHeartbeat", `reason: `+tooLong(256)), `spec.reason: Too long: may not be more than 256 bytes`},

			{"epa", "x", on("QuarantineFile", `quarantineFile: {}`), `spec.quarantineFile: Invalid value: at least one of the fields in [path sha256] must be set`},
			{"epa", "x", on("QuarantineFile", `quarantineFile: {path: ""}`), `spec.quarantineFile.path: Invalid value: "": spec.quarantineFile.path in body should be at least 1 chars long`},
			{"epa", "x", on("QuarantineFile", `quarantineFile: {path: `+tooLong(4096)+`}`), `spec.quarantineFile.path: ` + pathWords},
			{"epa", "x", on("QuarantineFile", `quarantineFile: {sha256: 0a}`), `spec.quarantineFile.sha256: Invalid value: "0a": spec.quarantineFile.sha256 in body should match '^[0-9a-f]{64}$'`},
			{"epa", "x", on("QuarantineFile", `quarantineFile: {sha256: `+tooLong(64)+`}`), `spec.quarantineFile.sha256: Too long: may not be more than 64 bytes`},

			{"epa", "x", on("RestoreFile", `restoreFile: {}`), `spec.restoreFile.quarantineID: Required value`},
			{"epa", "x", on("RestoreFile", `restoreFile: {quarantineID: ""}`), `spec.restoreFile.quarantineID: Invalid value: "": spec.restoreFile.quarantineID in body should be at least 1 chars long`},
			{"epa", "x", on("RestoreFile", `restoreFile: {quarantineID: `+tooLong(36)+`}`), `spec.restoreFile.quarantineID: Too long: may not be more than 36 bytes`},
			{"epa", "x", on("RestoreFile", `restoreFile: {quarantineID: a, path: ""}`), `spec.restoreFile.path: Invalid value: "": spec.restoreFile.path in body should be at least 1 chars long`},
			{"epa", "x", on("RestoreFile", `restoreFile: {quarantineID: a, path: `+tooLong(4096)+`}`), `spec.restoreFile.path: ` + pathWords},
			{"epa", "x", on("RestoreFile", `restoreFile: {quarantineID: a, overwrite: Maybe}`), `spec.restoreFile.overwrite: Unsupported value: "Maybe": supported values: "Never", "Always"`},

			{"epa", "x", on("TerminateProcess", `terminateProcess: {scope: Tree}`), `spec.terminateProcess: Invalid value: at least one of the fields in [pid executable sha256] must be set`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {pid: 2}`), `spec.terminateProcess: Invalid value: pid and startTime go together: a PID alone may have been reused`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {executable: /a, startTime: "2026-03-01T12:00:00Z"}`), `spec.terminateProcess: Invalid value: pid and startTime go together: a PID alone may have been reused`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {executable: ""}`), `spec.terminateProcess.executable: Invalid value: "": spec.terminateProcess.executable in body should be at least 1 chars long`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {executable: `+tooLong(4096)+`}`), `spec.terminateProcess.executable: ` + pathWords},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {sha256: 0A}`), `spec.terminateProcess.sha256: Invalid value: "0A": spec.terminateProcess.sha256 in body should match '^[0-9a-f]{64}$'`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {sha256: `+tooLong(64)+`}`), `spec.terminateProcess.sha256: Too long: may not be more than 64 bytes`},
			{"epa", "x", on("TerminateProcess", `terminateProcess: {executable: /a, scope: Session}`), `spec.terminateProcess.scope: Unsupported value: "Session": supported values: "Process", "Tree"`},

			{"epa", "x", on("IsolateEndpoint", `isolateEndpoint: {allow: `+list(33, network)+`}`), `spec.isolateEndpoint.allow: Too many: 33: must have at most 32 items`},
			{"epa", "x", on("IsolateEndpoint", `isolateEndpoint: {allow: [10.0.0.0/8, 10.0.0.0/8]}`), `spec.isolateEndpoint.allow[1]: Duplicate value: "10.0.0.0/8"`},
			{"epa", "x", on("IsolateEndpoint", `isolateEndpoint: {allow: [10.0.0.1]}`), `spec.isolateEndpoint.allow[0]: Invalid value: "10.0.0.1": must be a network such as 10.0.0.0/8`},
			{"epa", "x", on("IsolateEndpoint", `isolateEndpoint: {allow: [`+tooLong(43)+`]}`), `spec.isolateEndpoint.allow[0]: Too long: may not be more than 43 bytes`},

			{"epa", "x", on("LiveTerminal", `liveTerminal: {user: `+tooLong(128)+`}`), `spec.liveTerminal.user: Too long: may not be more than 128 bytes`},
			{"epa", "x", on("LiveTerminal", `liveTerminal: {command: `+list(65, quoted("a"))+`}`), `spec.liveTerminal.command: Too many: 65: must have at most 64 items`},
			{"epa", "x", on("LiveTerminal", `liveTerminal: {command: [`+tooLong(4096)+`]}`), `spec.liveTerminal.command[0]: ` + pathWords},

			{"epa", "x", on("SetEndpointProxy", `setEndpointProxy: {}`), `spec.setEndpointProxy.url: Required value`},
			{"epa", "x", on("SetEndpointProxy", `setEndpointProxy: {url: "http://u:p@h:1"}`), `spec.setEndpointProxy.url: Invalid value: "http://u:p@h:1": ` + urlWords},
			{"epa", "x", on("SetEndpointProxy", `setEndpointProxy: {url: "http://`+strings.Repeat("h", 253)+`:1"}`), `spec.setEndpointProxy.url: Too long: may not be more than 261 bytes`},

			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {}`), `spec.retrieveFiles.paths: Required value`},
			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {paths: []}`), `spec.retrieveFiles.paths: Invalid value: 0: spec.retrieveFiles.paths in body should have at least 1 items`},
			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {paths: `+list(33, quoted("/a"))+`}`), `spec.retrieveFiles.paths: Too many: 33: must have at most 32 items`},
			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {paths: [/a, /a]}`), `spec.retrieveFiles.paths[1]: Duplicate value: "/a"`},
			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {paths: [""]}`), `spec.retrieveFiles.paths[0]: Invalid value: "": spec.retrieveFiles.paths[0] in body should be at least 1 chars long`},
			{"epa", "x", on("RetrieveFiles", `retrieveFiles: {paths: [`+tooLong(4096)+`]}`), `spec.retrieveFiles.paths[0]: ` + pathWords},

			{"epa", "x", on("RetrieveSecurityEventData", `retrieveSecurityEventData: {}`), `spec.retrieveSecurityEventData.eventIDs: Required value`},
			{"epa", "x", on("RetrieveSecurityEventData", `retrieveSecurityEventData: {eventIDs: []}`), `spec.retrieveSecurityEventData.eventIDs: Invalid value: 0: spec.retrieveSecurityEventData.eventIDs in body should have at least 1 items`},
			{"epa", "x", on("RetrieveSecurityEventData", `retrieveSecurityEventData: {eventIDs: `+list(65, quoted("e"))+`}`), `spec.retrieveSecurityEventData.eventIDs: Too many: 65: must have at most 64 items`},
			{"epa", "x", on("RetrieveSecurityEventData", `retrieveSecurityEventData: {eventIDs: [e, e]}`), `spec.retrieveSecurityEventData.eventIDs[1]: Duplicate value: "e"`},
			{"epa", "x", on("RetrieveSecurityEventData", `retrieveSecurityEventData: {eventIDs: [`+tooLong(128)+`]}`), `spec.retrieveSecurityEventData.eventIDs[0]: Too long: may not be more than 128 bytes`},
		},
	)
)

const emptySelectorWords = "an empty selector is refused: to act on every endpoint, match a label that all of them have"

// parameters are the least that each block of them takes, by the type that it goes with.
var parameters = map[string]string{
	"QuarantineFile":            `quarantineFile: {path: /a}`,
	"RestoreFile":               `restoreFile: {quarantineID: a}`,
	"TerminateProcess":          `terminateProcess: {executable: /a}`,
	"IsolateEndpoint":           `isolateEndpoint: {}`,
	"LiveTerminal":              `liveTerminal: {}`,
	"SetEndpointProxy":          `setEndpointProxy: {url: "http://h:1"}`,
	"RetrieveFiles":             `retrieveFiles: {paths: [/a]}`,
	"RetrieveSecurityEventData": `retrieveSecurityEventData: {eventIDs: [a]}`,
}

// actionTypes are all that the schema has.
func actionTypes(t *testing.T) []string {
	t.Helper()
	for _, f := range fields(t, "epa") {
		if f.path == "spec.type" {
			var types []string
			for _, value := range f.schema.Enum {
				types = append(types, strings.Trim(string(value.Raw), `"`))
			}
			return types
		}
	}
	t.Fatal("spec.type has no enum")
	return nil
}

// Every type is tried with every block of parameters, and with none.
func TestParametersGoWithTheirType(t *testing.T) {
	ns, client := harness.Cluster(t).Namespace(t), admin(t)
	for _, f := range fields(t, "epa") {
		block, isTop := strings.CutPrefix(f.path, "spec.")
		if !isTop || strings.ContainsAny(block, ".[{") || f.schema.Type != "object" || block == "selector" {
			continue
		}
		if _, known := parameters[strings.ToUpper(block[:1])+block[1:]]; !known {
			t.Errorf("%s: the test has no parameters for it", f.path)
		}
	}
	withBlock := func(kind, of string) error {
		_, err := client.of("epa", ns).Create(t.Context(), object(t, "epa", "x", on(kind, parameters[of])), metav1.CreateOptions{DryRun: dryRun})
		return err
	}
	for _, kind := range actionTypes(t) {
		_, takes := parameters[kind]
		mayGoWithout := !takes || kind == "IsolateEndpoint" || kind == "LiveTerminal"
		for _, of := range append([]string{""}, actionTypes(t)...) {
			if _, known := parameters[of]; !known && of != "" {
				continue
			}
			want := of == kind || of == "" && mayGoWithout
			switch err := withBlock(kind, of); {
			case want && err != nil:
				t.Errorf("%s with the parameters of %q: %v", kind, of, err)
			case !want && !slices.Contains(told(err), "spec: Invalid value: type "+kind+parametersWords):
				t.Errorf("%s with the parameters of %q: told %s", kind, of, told(err))
			}
		}
	}
}

// A new action is Pending and unseen, whatever its author writes into its status.
func TestANewActionIsPending(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author := person(t, ns, authors)
	o := object(t, "epa", "hello", specs["epa"])
	o.Object["status"] = map[string]any{"phase": "Succeeded", "finishTime": "2026-03-01T12:00:00Z"}
	got, err := author.of("epa", ns).Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := unstructured.NestedMap(got.Object, "status")
	if want := `{"observedGeneration":-1,"phase":"Pending"}`; asJSON(t, status) != want {
		t.Errorf("a new action has the status %s, want %s", asJSON(t, status), want)
	}
}
