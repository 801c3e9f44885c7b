"""The literal list of ST's public names: which are here, and which are left out, with the reason.

`python -m pytest tests/parity/test_names.py` fails when ST has a name that neither list knows, when a covered name is
missing here, or when a name that is left out has come. To cover more, move a name.
"""

import importlib
import warnings

import pytest

EXPORT = "`omnitune export` writes graphs, and proves them on data"
LEGACY = "of ST's training before version 3"
INTERNAL = "how ST's parts call each other, not for users"
DATASETS = "made by dataset.map here"

COVERED = {
    "": """
        CrossEncoder CrossEncoderModelCardData CrossEncoderTrainer CrossEncoderTrainingArguments
        DefaultBatchSampler MultiDatasetDefaultBatchSampler MultiVectorEncoder MultiVectorEncoderModelCardData
        MultiVectorEncoderTrainer MultiVectorEncoderTrainingArguments
        SentenceTransformer SentenceTransformerModelCardData
        SentenceTransformerTrainer SentenceTransformerTrainingArguments SimilarityFunction mine_hard_negatives
        SparseEncoder SparseEncoderModelCardData SparseEncoderTrainer SparseEncoderTrainingArguments
        quantize_embeddings InputExample LoggingHandler ParallelSentencesDataset SentencesDataset
    """,
    "sentence_transformer.losses": """
        AdaptiveLayerLoss AnglELoss BatchAllTripletLoss BatchHardSoftMarginTripletLoss BatchHardTripletLoss
        BatchHardTripletLossDistanceFunction BatchSemiHardTripletLoss CachedGISTEmbedLoss
        CachedMultipleNegativesRankingLoss CachedMultipleNegativesSymmetricRankingLoss CoSENTLoss
        ContrastiveLoss ContrastiveTensionLoss ContrastiveTensionLossInBatchNegatives CosineSimilarityLoss
        DenoisingAutoEncoderLoss DistillKLDivLoss EmbedDistillLoss GISTEmbedLoss GlobalOrthogonalRegularizationLoss
        MSELoss MarginMSELoss Matryoshka2dLoss MatryoshkaLoss MegaBatchMarginLoss MultipleNegativesRankingLoss
        MultipleNegativesSymmetricRankingLoss OnlineContrastiveLoss SiameseDistanceMetric SoftmaxLoss
        TripletDistanceMetric TripletLoss
    """,
    "sentence_transformer.evaluation": """
        BaseEvaluator BinaryClassificationEvaluator EmbeddingSimilarityEvaluator InformationRetrievalEvaluator
        LabelAccuracyEvaluator MSEEvaluator MSEEvaluatorFromDataFrame NanoBEIREvaluator ParaphraseMiningEvaluator
        RerankingEvaluator SentenceEvaluator SequentialEvaluator SimilarityFunction TranslationEvaluator
        TripletEvaluator
    """,
    "sparse_encoder.evaluation": """
        ReciprocalRankFusionEvaluator SparseBinaryClassificationEvaluator SparseEmbeddingSimilarityEvaluator
        SparseInformationRetrievalEvaluator SparseMSEEvaluator SparseNanoBEIREvaluator SparseRerankingEvaluator
        SparseTranslationEvaluator SparseTripletEvaluator
    """,
    "cross_encoder": """
        CrossEncoder CrossEncoderDataCollator CrossEncoderModelCardData CrossEncoderTrainer
        CrossEncoderTrainingArguments
    """,
    "cross_encoder.losses": """
        ADRMSELoss BinaryCrossEntropyLoss CachedMultipleNegativesRankingLoss CrossEntropyLoss LambdaLoss
        LambdaRankScheme ListMLELoss ListNetLoss MSELoss MarginMSELoss MultipleNegativesRankingLoss NDCGLoss1Scheme
        NDCGLoss2PPScheme NDCGLoss2Scheme NoWeightingScheme PListMLELambdaWeight PListMLELoss RankNetLoss
    """,
    "cross_encoder.evaluation": """
        CrossEncoderClassificationEvaluator CrossEncoderCorrelationEvaluator CrossEncoderNanoBEIREvaluator
        CrossEncoderRerankingEvaluator
        CEBinaryAccuracyEvaluator CEBinaryClassificationEvaluator CECorrelationEvaluator CEF1Evaluator
        CERerankingEvaluator CESoftmaxAccuracyEvaluator
    """,
    "cross_encoder.modules": """
        Asym Dense InputModule LogitScore Module Router Transformer
    """,
    "multi_vector_encoder": """
        MultiVectorEncoder MultiVectorEncoderModelCardData MultiVectorEncoderTrainer
        MultiVectorEncoderTrainingArguments maxsim maxsim_pairwise
    """,
    "multi_vector_encoder.evaluation": """
        MultiVectorDistillationEvaluator MultiVectorInformationRetrievalEvaluator MultiVectorNanoBEIREvaluator
        MultiVectorRerankingEvaluator MultiVectorTripletEvaluator
    """,
    "multi_vector_encoder.scoring": """
        XTRKDScores XTRScores colbert_kd_scores colbert_scores colbert_scores_pairwise mean_colbert_kd_scores
        mean_colbert_scores mean_colbert_scores_pairwise xtr_kd_scores xtr_scores xtr_scores_pairwise
    """,
    "multi_vector_encoder.modules": """
        BaseTokenPooling HierarchicalTokenPooling LambdaTokenPooling MultiVectorMask
    """,
    "sparse_encoder": """
        SparseEncoder SparseEncoderDataCollator SparseEncoderModelCardData SparseEncoderTrainer
        SparseEncoderTrainingArguments
    """,
    "sparse_encoder.losses": """
        CSRLoss CSRReconstructionLoss CachedSpladeLoss FlopsLoss SparseAnglELoss SparseCoSENTLoss
        SparseCosineSimilarityLoss SparseDistillKLDivLoss SparseMSELoss SparseMarginMSELoss
        SparseMultipleNegativesRankingLoss SparseTripletLoss SpladeLoss
    """,
    "sparse_encoder.modules": """
        Asym Dense InputModule MLMTransformer Module Router SparseAutoEncoder SparseStaticEmbedding SpladePooling
        Transformer
    """,
    "sparse_encoder.callbacks": """
        SchedulerType SpladeRegularizerWeightSchedulerCallback
    """,
    "util": """
        SimilarityFunction community_detection cos_sim dot_score euclidean_sim information_retrieval manhattan_sim
        mine_hard_negatives normalize_embeddings pairwise_angle_sim pairwise_cos_sim pairwise_dot_score
        pairwise_euclidean_sim pairwise_manhattan_sim paraphrase_mining paraphrase_mining_embeddings pytorch_cos_sim
        quantize_embeddings semantic_search truncate_embeddings LoggingHandler batch_to_device disable_datasets_caching
        disable_logging fullname get_device_name get_rank get_world_size http_get is_accelerate_available
        is_datasets_available is_dist_initialized is_training_available
        maxsim maxsim_pairwise mean_maxsim mean_maxsim_pairwise compute_count_vector select_max_active_dims to_scipy_coo
    """,
}

LEFT_OUT = {
    "": {
        "export_dynamic_quantized_onnx_model export_optimized_onnx_model": EXPORT,
        "export_static_quantized_openvino_model": EXPORT,
        "resolve_ids": DATASETS,
    },
    "sentence_transformer.losses": {
        "ContrastiveTensionDataLoader": LEGACY,
    },
    "sentence_transformer.evaluation": {},
    "sparse_encoder.evaluation": {},
    "cross_encoder": {},
    "cross_encoder.losses": {},
    "cross_encoder.evaluation": {},
    "cross_encoder.modules": {},
    "multi_vector_encoder": {"MultiVectorEncoderDataCollator": "one collator serves every family"},
    "multi_vector_encoder.evaluation": {},
    "multi_vector_encoder.scoring": {},
    "multi_vector_encoder.modules": {},
    "sparse_encoder": {},
    "sparse_encoder.losses": {},
    "sparse_encoder.modules": {},
    "sparse_encoder.callbacks": {},
    "util": {
        "install_logger": "the library adds no handlers",
        "ORIGINAL_TRANSFORMER_MODELS append_to_last_row cat_padded_token_embeddings": INTERNAL,
        "check_package_availability": INTERNAL,
        "check_teacher_targets check_version_requirements disabled_tqdm import_from_string": INTERNAL,
        "import_module_class is_sentence_transformer_model load_dir_path load_file_path": INTERNAL,
        "repad_flattened_features save_to_hub_args_decorator similarity_fct_name": INTERNAL,
        "stack_padded_token_embeddings all_gather all_gather_padded all_gather_with_grad _convert_to_batch": INTERNAL,
        "_convert_to_batch_tensor _convert_to_tensor _move_tensors_to_cpu": INTERNAL,
        "resolve_ids": DATASETS,
    },
}


def names(path: str) -> tuple[set[str], set[str]]:
    out = {name for group in LEFT_OUT[path] for name in group.split()}
    return set(COVERED[path].split()), out


@pytest.mark.parametrize("path", COVERED)
def test_covered_names_are_here_and_the_others_are_not(path: str) -> None:
    module = importlib.import_module(f"omnitune.{path}".rstrip("."))
    covered, out = names(path)
    assert covered <= {*module.__all__}
    assert not out & {*module.__all__}


@pytest.mark.parity
@pytest.mark.parametrize("path", COVERED)
def test_every_name_of_st_is_in_one_list(path: str) -> None:
    pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = importlib.import_module(f"sentence_transformers.{path}".rstrip("."))
    covered, out = names(path)
    assert not covered & out
    assert covered | out == {*theirs.__all__}
