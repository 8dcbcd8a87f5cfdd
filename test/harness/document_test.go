package harness

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const document = "# Title\n" +
	"Say `kubectl get fep`, or `make run N=1`; `kubectl apply` is a name, and `Endpoint` none.\n" +
	"On the machine: systemctl stop rollcall-agent, rollcall-agent reset --yes.\n" +
	"```console\n" +
	"$ first \\\n" +
	"    --of=two   # lines\n" +
	"what it prints\n" +
	"$ second\n" +
	"```\n" +
	"```\nnothing\n```\n" +
	"```console\na() { b; }\n  c\n```\n"

func read(t *testing.T, text string) (*reader, error) {
	t.Helper()
	r := &reader{document: "doc"}
	for i, line := range strings.Split(text, "\n") {
		if err := r.read(i+1, line); err != nil {
			return r, err
		}
	}
	return r, nil
}

func TestCommandsOfADocument(t *testing.T) {
	r, err := read(t, document)
	if err != nil {
		t.Fatal(err)
	}
	want := []Command{
		{Document: "doc", Line: 2, Text: "kubectl get fep"},
		{Document: "doc", Line: 2, Text: "make run N=1"},
		{Document: "doc", Line: 5, Text: "first \\\n    --of=two", Block: true, Output: "what it prints\n"},
		{Document: "doc", Line: 8, Text: "second", Block: true},
		{Document: "doc", Line: 14, Text: "a() { b; }\n  c", Block: true},
	}
	if diff := cmp.Diff(want, r.commands); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	want = []Command{
		{Document: "doc", Line: 3, Text: "systemctl stop rollcall-agent, rollcall-agent reset --yes."},
		{Document: "doc", Line: 3, Text: "rollcall-agent reset --yes."},
	}
	if diff := cmp.Diff(want, r.mentions); diff != "" {
		t.Errorf("mentions (-want +got):\n%s", diff)
	}
	if got, want := ConsoleBlocks([]byte(document)), "$ first \\\n    --of=two   # lines\nwhat it prints\n$ second\na() { b; }\n  c\n"; got != want {
		t.Errorf("the console blocks are %q, want %q", got, want)
	}
}

// What the other tests cannot see must not look like a document's command either.
func TestCommandsInTheWrongPlace(t *testing.T) {
	for name, text := range map[string]string{
		"a block in another language":  "```sh\nls\n```",
		"a prompt in a block of text":  "```\n$ ls\n```",
		"a code span over two lines":   "Type `kubectl get\nfep`.",
		"a prompt in an example block": "```text\n$ ls\n```",
	} {
		if _, err := read(t, text); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}
