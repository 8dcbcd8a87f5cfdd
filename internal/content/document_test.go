package content

import (
	"os"
	"regexp"
	"testing"
)

// The document that docs/content.md shows is one.
func TestDocumentedBundle(t *testing.T) {
	page, err := os.ReadFile("../../docs/content.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(page)
	if example == nil {
		t.Fatal("there is no example")
	}
	if b, err := Parse(example[1]); err != nil || len(b.Rules) != 3 {
		t.Errorf("%+v, %v", b, err)
	}
}
