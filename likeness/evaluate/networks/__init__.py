"""The networks behind the metrics, each in its authors' tensor names, so that official files load as they are."""
