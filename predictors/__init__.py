"""archrank.predictors"""
