package wire

import (
	"os"
	"regexp"
	"strconv"
	"testing"
)

// Authors of other agents rely on the table of problems in the document.
func TestDocumentedProblems(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[Name]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]{3}) \\|").FindAllSubmatch(doc, -1) {
		name := Name(m[1])
		documented[name] = true
		if known, ok := problems[name]; !ok || strconv.Itoa(known.status) != string(m[2]) {
			t.Errorf("the document has %s with status %s, the table %v", name, m[2], known)
		}
	}
	for name := range problems {
		if !documented[name] {
			t.Errorf("%s is not in the document", name)
		}
	}
	example := regexp.MustCompile("(?s)```json problem\n(.*?)\n```").FindSubmatch(doc)
	if example == nil {
		t.Fatal("the document has no example of a problem")
	}
	if p, ok := ParseProblem(429, "application/problem+json", example[1]); !ok || p.Name != Throttled || p.RetryAfter.Seconds() != 30 {
		t.Errorf("the document's example is read as %+v, %v", p, ok)
	}
}
