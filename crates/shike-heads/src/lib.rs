//! Classifiers on frozen features, for classes with a long tail.
