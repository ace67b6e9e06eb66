// Loads a compose file by the rules of the compose specification, and prints what came of it as JSON.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(
		os.Args[1:],
		cli.WithOsEnv,
		cli.WithName("beefline"),
		cli.WithConsistency(true),
	)
	if err == nil {
		project, failed := options.LoadProject(context.Background())
		if failed == nil {
			loaded, unwritten := project.MarshalJSON()
			if unwritten == nil {
				fmt.Println(string(loaded))
				return
			}
			failed = unwritten
		}
		err = failed
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
