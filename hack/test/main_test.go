package main

import (
	"bytes"
	"strings"
	"testing"
)

// A right that nothing has used fails a whole run, which names it and its manifest, and no part of one.
func TestUnusedRights(t *testing.T) {
	t.Chdir("../..")
	for _, whole := range []bool{true, false} {
		var out bytes.Buffer
		err := checkRights(&out, t.TempDir(), whole)
		if named := strings.Contains(out.String(), "config/rbac/manager.yaml: get secrets rollcall-root-key"); (err != nil) != whole || named != whole {
			t.Errorf("whole run %t: %v\n%s", whole, err, &out)
		}
	}
}
